"""A Hugging Face decoder becomes one graph that serves prefill and decode.

    Module(input_ids, attention_mask, position_ids, cache)  ->  the interface of `compressor.decoder`

torch.export traces the model once, with padding in the sample (an all-ones mask would disappear from the graph) and
every dynamic axis above 1 (a 1 would be specialised). torch.onnx translates without optimizing: its optimizer unties
weights and drops their names, and folding is the work of our passes.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx_ir as ir
import onnx_ir.passes.common as common_passes
import torch
from torch import Tensor, nn

from compressor import decoder
from compressor.decoder import Decoder, Feeds
from compressor.errors import MachineError, RequestError
from compressor.export import decoder_cases, proof, provenance
from compressor.session import load_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BATCH, SEQUENCE, PAST = "batch_size", "sequence_length", "past_sequence_length"
TOTAL = "total_sequence_length"
IR_VERSION = 10  # the newest that ONNX Runtime since 1.20 and TensorRT 10 read
FIRST_OPSET_WITH_ATTENTION = 23
SAMPLE_BATCH, SAMPLE_SEQUENCE, SAMPLE_PAST = 2, 3, 5


def load(folder: Path, opset: int) -> PreTrainedModel:
    """The model in float32, evaluation mode, from safetensors only. Raises: RequestError.

    Attention is traced in the form that the opset says best: from 23 on sdpa is one Attention operator; below it would
    need a repair of NaN in every layer, which the additive mask of eager attention does without.
    """
    from transformers import AutoModelForCausalLM

    attention = "sdpa" if opset >= FIRST_OPSET_WITH_ATTENTION else "eager"
    try:
        with quiet():
            model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=torch.float32,
                attn_implementation=attention,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
            )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise RequestError(f"{folder}: transformers cannot load it as a decoder: {_line(error)}") from error
    return model.eval()


def export(model: PreTrainedModel, opset: int) -> ir.Model:
    """One graph, batch, sequence and past dynamic; weights keep the names that the checkpoint gives them.

    Raises: RequestError when the model is not in evaluation mode or cannot be traced.
    """
    if any(module.training for module in model.modules()):
        raise RequestError("the model is in training mode; call model.eval() before exporting it")
    traced = _Traced(model)
    sample, shapes = traced.sample()
    try:
        with torch.no_grad(), quiet():
            program = torch.export.export(traced, sample, dynamic_shapes=shapes, strict=False)
            onnx_program = torch.onnx.export(program, opset_version=opset, optimize=False, verbose=False)
    except MemoryError as error:
        raise MachineError(f"not enough memory to trace {type(model).__name__}: {_line(error)}") from error
    except Exception as error:  # torch.export has no common exception class
        raise RequestError(f"{type(model).__name__} cannot be traced: {_line(error)}") from error
    assert onnx_program is not None  # None only when a path is given
    graph_model = onnx_program.model
    _name_interface(graph_model, traced.layers)
    _name_weights(graph_model)
    provenance.name_nodes(graph_model, wrapper="wrapped")
    common_passes.ClearMetadataAndDocStringPass()(graph_model)  # stack traces hold paths of this machine
    graph_model.ir_version = IR_VERSION
    graph_model.graph.name = type(model).__name__
    graph_model.producer_name, graph_model.producer_version = "compress", None
    return graph_model


def prove(model: PreTrainedModel, graph: Path) -> list[proof.Difference]:
    """The graph against torch in every way a decoder is called. Raises: LimitMissedError when they differ."""
    decoder_sizes = Decoder.of(load_model(graph))
    assert decoder_sizes is not None  # the interface that export gave it
    ids = decoder_cases.texts(decoder_sizes.vocab)
    with torch.no_grad(), quiet():
        logits = model(input_ids=torch.from_numpy(ids), use_cache=False).logits.float().numpy()
    traced = _Traced(model)

    def run(feeds: Feeds) -> object:
        return traced(*(torch.from_numpy(array) for array in feeds.values()))

    cases = decoder_cases.cases(decoder_sizes, ids, logits)
    with quiet():
        return proof.prove(graph, cases, ir.DataType.FLOAT, proof.Source(model, run))


class _Traced(nn.Module):
    """A decoder with its cache laid out flat, as a graph wants it."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.wrapped = model
        config = model.config.get_text_config()
        self.layers = int(config.num_hidden_layers)
        heads = int(config.num_attention_heads)
        self.kv_heads = int(getattr(config, "num_key_value_heads", None) or heads)
        self.head_size = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
        self.vocab = int(config.vocab_size)
        self.takes_positions = _takes(model, decoder.POSITIONS)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, *past: Tensor) -> list[Tensor]:
        from transformers.cache_utils import DynamicCache

        pairs = list(zip(past[::2], past[1::2], strict=True))
        extra = {decoder.POSITIONS: position_ids} if self.takes_positions else {}
        result: Any = self.wrapped(
            input_ids=input_ids,
            attention_mask=attention_mask,
            past_key_values=DynamicCache(pairs),
            use_cache=True,
            **extra,
        )
        layers = result.past_key_values.layers
        return [result.logits, *(tensor for layer in layers for tensor in (layer.keys, layer.values))]

    def sample(self) -> tuple[tuple[Tensor, ...], Any]:
        """Inputs to trace with, and which of their axes are free. Row 0 is padded by two tokens."""
        total = SAMPLE_PAST + SAMPLE_SEQUENCE
        mask = torch.ones(SAMPLE_BATCH, total, dtype=torch.int64)
        mask[0, :2] = 0
        ids = torch.arange(SAMPLE_BATCH * SAMPLE_SEQUENCE).reshape(SAMPLE_BATCH, SAMPLE_SEQUENCE) % self.vocab
        spots = torch.arange(SAMPLE_PAST, total).expand(SAMPLE_BATCH, -1).clone()
        shape = (SAMPLE_BATCH, self.kv_heads, SAMPLE_PAST, self.head_size)
        past = [torch.zeros(shape) for _ in range(2 * self.layers)]
        free = torch.export.Dim.DYNAMIC
        row, cache = {0: free, 1: free}, {0: free, 2: free}
        return (ids, mask, spots, *past), (row, row, row, (cache,) * len(past))


def _name_interface(model: ir.Model, layers: int) -> None:
    """Give inputs, outputs and every free axis of the graph the names of the interface."""
    pairs = range(layers)
    past = [form.format(n) for n in pairs for form in (decoder.PAST_KEY, decoder.PAST_VALUE)]
    present = [form.format(n) for n in pairs for form in (decoder.PRESENT_KEY, decoder.PRESENT_VALUE)]
    axes_of = {name: {0: BATCH, 2: PAST} for name in past} | {name: {0: BATCH, 2: TOTAL} for name in present}
    axes_of |= {name: {0: BATCH, 1: SEQUENCE} for name in (decoder.IDS, decoder.POSITIONS, decoder.LOGITS)}
    axes_of[decoder.MASK] = {0: BATCH, 1: TOTAL}
    symbols: dict[str, str] = {}
    for values, names in (
        (model.graph.inputs, [decoder.IDS, decoder.MASK, decoder.POSITIONS, *past]),
        (model.graph.outputs, [decoder.LOGITS, *present]),
    ):
        for value, name in zip(values, names, strict=True):
            assert value.shape is not None  # torch.export states every shape
            value.name = name
            symbols |= {str(value.shape[axis]): named for axis, named in axes_of[name].items()}
    for value in _values(model):
        if value.shape is not None:
            value.shape = ir.Shape([size if isinstance(size, int) else _named(size, symbols) for size in value.shape])


def _named(size: ir.SymbolicDim, symbols: dict[str, str]) -> str | None:
    """An axis by its names: `s15 + s70` -> the name it was given, or its terms' names."""
    text = str(size)
    return symbols.get(text) or re.sub(r"s\d+", lambda found: symbols.get(found[0], found[0]), text)


def _values(model: ir.Model) -> Iterator[ir.Value]:
    yield from model.graph.inputs
    for node in model.graph:
        yield from node.outputs


def _name_weights(model: ir.Model) -> None:
    """Weights carry the checkpoint's names: `wrapped.model.layers.0...` -> `model.layers.0...`."""
    for value in list(model.graph.initializers.values()):
        if value.name and value.name.startswith("wrapped."):
            value.name = value.name.removeprefix("wrapped.")


def _takes(model: PreTrainedModel, argument: str) -> bool:
    return argument in inspect.signature(model.forward).parameters


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """torch and transformers talk while they trace; what matters reaches the user as our own errors."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
        transformers_logging.set_verbosity(level)


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."
