"""An encoder with a decoder becomes two graphs, each weight in one of them but the embeddings that both read.

    encoder_model.onnx   input_ids, attention_mask [batch_size, encoder_sequence_length]   (Whisper: input_features)
                         -> last_hidden_state, present.N.encoder.key / .value: what the decoder will look at
    decoder_model.onnx   input_ids [batch_size, sequence_length], encoder_attention_mask,
                         past_key_values.N.decoder.key / .value [batch_size, heads, past_sequence_length, head_size],
                         past_key_values.N.encoder.key / .value [batch_size, heads, encoder_sequence_length, head_size]
                         -> logits, present.N.decoder.key / .value

The names are Optimum's. Its first step and its later ones are two graphs, or two branches of one, because the keys of
the encoder's states are made in the first step; here the encoder makes them, and one decoder with an empty past serves
every step.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from compressor import sources
from compressor.export import checkpoint, exporters, inputs, tasks
from compressor.export.exporters import Exported
from compressor.export.proof import Case, Outputs, Run
from compressor.export.tasks import Task
from compressor.export.tracing import BATCH, SEQUENCE, WRAPPED, Call, Input, array, quiet
from compressor.graph.decoder import IDS, LOGITS, MASK
from compressor.graph.encoder_decoder import DECODER, ENCODER, ENCODER_MASK
from compressor.graph.session import open_session
from compressor.recipe.recipe import Export
from compressor.sources import Source

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ENCODER_SEQUENCE, PAST = "encoder_sequence_length", "past_sequence_length"
HIDDEN = "last_hidden_state"
PARTS = ("key", "value")
CACHES = (
    ("past_key_values", "decoder"),
    ("past_key_values", "encoder"),
    ("present", "decoder"),
    ("present", "encoder"),
)
PROMPT, STEPS = 4, 3  # tokens that the decoder is given at once, and one by one behind them


def prepare(source: Source, task: Task, options: Export) -> Exported:
    """A checkpoint -> encoder and decoder."""
    loaded = checkpoint.load(source.folder, task, options)
    pair = calls(loaded, tasks.choices(sources.whole_config(source.folder)))
    return Exported(
        {name: functools.partial(loaded.trace, call, options.opset) for name, call in pair.items()},
        lambda folder: [
            *exporters.prove(folder / ENCODER, pair[ENCODER], options),
            *exporters.prove(folder / DECODER, pair[DECODER], options, _cases(folder, pair, options)),
        ],
        loaded.facts,
    )


def calls(loaded: checkpoint.Loaded, remedy: str) -> dict[str, Call]:
    """The calls of an encoder and of a decoder, by the file that each becomes."""
    model, torch_model = loaded.model, loaded.answering
    found = {name: _renamed(one) for name, one in inputs.find(model).items()}
    encoder = _Encoder(model, tuple(found))
    torch_encoder = None if torch_model is None else _Encoder(torch_model, tuple(found))
    traced = {BATCH: 2, ENCODER_SEQUENCE: 7}
    sample = tuple(one.sample(traced) for one in found.values())
    with torch.no_grad(), quiet():
        hidden, *states = encoder(*sample)
    heads, length, head_size = states[0].shape[1:]
    axis = ENCODER_SEQUENCE if MASK in found else length  # sound: as many states as the encoder has positions
    pairs = range(len(states) // 2)
    own, theirs, made, seen = (_names(stem, pairs, side) for stem, side in CACHES)
    floats = inputs.noise(model)
    past = {name: Input((BATCH, heads, PAST, head_size), floats) for name in own}
    cross = {name: Input((BATCH, heads, axis, head_size), floats) for name in theirs}
    ids = {IDS: Input((BATCH, SEQUENCE), inputs.tokens(int(model.config.get_text_config().vocab_size)))}
    mask = {ENCODER_MASK: Input((BATCH, ENCODER_SEQUENCE), inputs.padded_mask)} if MASK in found else {}
    shape = {"layers": len(pairs), "hidden_size": hidden.shape[-1], "masked": bool(mask)}
    decoder = _Decoder(model, **shape)
    torch_decoder = None if torch_model is None else _Decoder(torch_model, **shape)
    sizes = {"batch 1": (1, 5, 1, 4), "batch 3, padded rows": (3, 11, 2, 3), "empty past": (2, 6, 1, 0)}
    axes = (BATCH, ENCODER_SEQUENCE, SEQUENCE, PAST)
    checked = {case: dict(zip(axes, one, strict=True)) for case, one in sizes.items()}
    name = type(model).__name__
    return {
        ENCODER: Call(f"{name}_encoder", encoder, found, (HIDDEN, *seen), traced, checked, loaded.lacking, remedy,
                      torch_encoder),
        DECODER: Call(f"{name}_decoder", decoder, {**ids, **mask, **past, **cross}, (LOGITS, *made),
                      {**traced, SEQUENCE: 3, PAST: 5}, checked, loaded.lacking, remedy, torch_decoder),
    }  # fmt: skip


class _Encoder(nn.Module):
    """Encoder states and what the decoder's layers make of them: a step of it is run, and all else of it dropped."""

    def __init__(self, model: PreTrainedModel, names: tuple[str, ...]) -> None:
        super().__init__()
        self.wrapped, self.names, self.training = model, names, model.training

    def forward(self, *tensors: Tensor) -> list[Tensor]:
        from transformers.cache_utils import DynamicCache, EncoderDecoderCache

        given = dict(zip(self.names, tensors, strict=True))
        hidden = self.wrapped.get_encoder()(**given).last_hidden_state
        result: Any = self.wrapped(
            encoder_outputs=(hidden,),
            attention_mask=given.get(MASK),
            decoder_input_ids=torch.zeros((hidden.shape[0], 1), dtype=torch.int64),
            past_key_values=EncoderDecoderCache(DynamicCache(), DynamicCache()),
            use_cache=True,
        )
        return [hidden, *_flat(result.past_key_values.cross_attention_cache)]


class _Decoder(nn.Module):
    """A decoder on both of its caches, the encoder's side of them already made."""

    def __init__(self, model: PreTrainedModel, layers: int, hidden_size: int, *, masked: bool) -> None:
        super().__init__()
        self.wrapped, self.training = model, model.training
        self.layers, self.hidden_size, self.masked = layers, hidden_size, masked

    def forward(self, *tensors: Tensor) -> list[Tensor]:
        ids, *rest = tensors
        mask, caches = (rest[0], rest[1:]) if self.masked else (None, rest)
        past, cross = caches[: 2 * self.layers], caches[2 * self.layers :]
        # Their shape alone is read, for keys and values are there already.
        hidden = cross[0].new_zeros((cross[0].shape[0], cross[0].shape[2], self.hidden_size))
        result: Any = self.wrapped(
            encoder_outputs=(hidden,),
            attention_mask=mask,
            decoder_input_ids=ids,
            past_key_values=_both(past, cross),
            use_cache=True,
        )
        return [result.logits, *_flat(result.past_key_values.self_attention_cache)]


def _both(past: Sequence[Tensor], cross: Sequence[Tensor]) -> Any:
    from transformers.cache_utils import DynamicCache, EncoderDecoderCache

    filled = [DynamicCache(list(zip(side[::2], side[1::2], strict=True))) for side in (past, cross)]
    cache = EncoderDecoderCache(*filled)
    cache.is_updated = dict.fromkeys(range(len(cross) // 2), True)  # whatever the lengths are
    return cache


def _flat(cache: Any) -> list[Tensor]:
    return [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]


def _names(stem: str, layers: range, side: str) -> list[str]:
    """present.0.encoder.key, present.0.encoder.value, present.1..."""
    return [f"{stem}.{layer}.{side}.{part}" for layer in layers for part in PARTS]


def _renamed(one: Input) -> Input:
    """The encoder's own length, beside the decoder's."""
    return Input(tuple(ENCODER_SEQUENCE if size == SEQUENCE else size for size in one.shape), one.fill)


def _cases(folder: Path, pair: Mapping[str, Call], options: Export) -> Iterator[Case]:
    """Both graphs together, step by step, against torch reading the whole of both sides at once without a cache."""
    yield from pair[DECODER].cases()
    call = pair[ENCODER]
    model: Any = getattr(call.torch_side, WRAPPED)
    session = open_session(exporters.runnable(folder / ENCODER, options), "exact", lean=True)
    names = [one.name for one in session.get_outputs()]
    for case, sizes in call.checked.items():
        feeds = {name: array(tensor) for name, tensor in call.sample(sizes).items()}
        seen = {name: call.as_torch(one) for name, one in feeds.items()}
        ids = inputs.tokens(int(model.config.get_text_config().vocab_size))((sizes[BATCH], PROMPT + STEPS))
        with torch.no_grad(), quiet():
            expected = model(**seen, decoder_input_ids=ids, use_cache=False).logits.float().numpy()
        states = dict(zip(names, session.run(names, feeds), strict=True))
        answer = functools.partial(_steps, pair[DECODER], ids.numpy(), states, feeds.get(MASK))
        yield Case(f"{case}, {STEPS} steps", answer, {LOGITS: expected})


def _steps(call: Call, ids: NDArray[np.int64], states: Outputs, mask: NDArray[Any] | None, run: Run) -> Outputs:
    """The prompt on an empty past, then token by token on what each call returned."""
    given: dict[str, NDArray[Any]] = {} if mask is None else {ENCODER_MASK: mask}
    given |= {name: states[name.replace("past_key_values", "present")] for name in call.inputs if ".encoder." in name}
    past = {name: np.empty_like(states[next(iter(states.keys() - {HIDDEN}))][:, :, :0]) for name in call.inputs
            if ".decoder." in name}  # fmt: skip
    found, begin = [], 0
    for end in range(PROMPT, PROMPT + STEPS + 1):
        every = {IDS: ids[:, begin:end], **given, **past}
        outputs = run({name: every[name] for name in call.inputs})
        past = {name: outputs[name.replace("past_key_values", "present")] for name in past}
        found.append(outputs[LOGITS])
        begin = end
    return {LOGITS: np.concatenate(found, 1)}
