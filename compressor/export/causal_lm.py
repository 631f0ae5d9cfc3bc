"""A Hugging Face decoder becomes one graph that serves prefill and decode.

    Module(input_ids, attention_mask, position_ids, cache)  ->  the interface of `compressor.graph.decoder`

    load     configuration -> a model whose weights are never touched, and where each of them lies in the checkpoint
    export   two layers of each kind are traced and proven alike, then copied (`layers`, `replication`);
             weights are read when they are written (`weights`)
    prove    the graph against transformers' own model (`reference`, `proof`)

torch.export traces with padding in the sample: an all-ones mask would disappear from the graph.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray

from compressor.artifact import MODEL
from compressor.export import (
    canonical,
    decoder_cases,
    exporters,
    layers,
    proof,
    reference,
    replication,
    tracing,
    unloaded,
    weights,
)
from compressor.export.checkpoint import DTYPES, attention
from compressor.export.decoder_module import PAST, TOTAL, DecoderModule
from compressor.export.exporters import Exported
from compressor.export.tasks import Task
from compressor.export.tracing import SEQUENCE, quiet
from compressor.export.unloaded import Unloaded
from compressor.graph import narrow
from compressor.graph.decoder import IDS, LAYER_OF_CACHE, LOGITS, MASK, POSITIONS, Decoder, Feeds, positions
from compressor.graph.session import load_model
from compressor.providers import environment
from compressor.recipe.recipe import Export
from compressor.sources import Source

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SHARE_OF_MEMORY = 0.5  # of what is free, that a reference may take
TOTALS = {f"{PAST} + {SEQUENCE}": TOTAL, f"{SEQUENCE} + {PAST}": TOTAL}


def prepare(source: Source, task: Task, options: Export) -> Exported:
    """A checkpoint of a decoder -> one graph for prefill and decode."""
    del task
    return _exported(source, options, with_past=True)


def without_past(source: Source, task: Task, options: Export) -> Exported:
    """A checkpoint of a decoder -> one graph that reads whole texts: to score or to embed them."""
    del task
    return _exported(source, options, with_past=False)


def _exported(source: Source, options: Export, *, with_past: bool) -> Exported:
    origin = load(source.folder, options.opset, options.dtype)
    return Exported(
        {MODEL: lambda: export(origin, options.opset, with_past=with_past)},
        lambda folder: prove(origin, folder / MODEL, options.dtype),
        origin.facts,
    )


def load(folder: Path, opset: int, dtype: str = "float32") -> Unloaded:
    """The decoder of a checkpoint, no weight read. Raises: RequestError."""
    return unloaded.load(folder, attention(opset), DTYPES[dtype])


def export(origin: Unloaded, opset: int, *, with_past: bool = True) -> ir.Model:
    """One graph, batch, sequence and past dynamic; weights keep the names that the checkpoint gives them.

    Without past it reads whole texts and keeps no cache. Raises: RequestError when the model cannot be traced, or its
    checkpoint is not whole.
    """
    graph_model = _graph(origin, opset, with_past)
    if not with_past:  # a model that counts tokens itself reads no positions
        graph_model.graph.inputs[:] = [value for value in graph_model.graph.inputs if value.uses()]
    if origin.model.dtype != torch.bfloat16:
        narrow.compute_wide(graph_model)  # Falcon's ALiBi is bfloat16 in a model of any type
    canonical.order_weights(graph_model.graph)
    weights.attach(graph_model.graph, origin.model, origin.origins)
    return graph_model


def prove(origin: Unloaded, graph: Path, dtype: str = "float32") -> list[proof.Difference]:
    """The graph against torch in every way a decoder is called; what cannot be compared is said in the facts.

    Raises: LimitMissedError when they differ.
    """
    plan, memory = reference.Plan.of(origin), environment.memory()
    if memory and plan.held_bytes > SHARE_OF_MEMORY * memory[0]:
        needed = f"{plan.held_bytes / 1e9:.1f} GB of {memory[0] / 1e9:.1f} GB free"
        origin.facts["fallbacks"].append(f"proof: not compared with torch, whose weights would take {needed}")
        return []
    whole = load_model(graph)
    graph_model = whole if dtype == "float32" else narrow.runnable(whole, exporters.DTYPES[dtype])
    sizes = Decoder.of(graph_model)  # none where it keeps no cache
    model = reference.load(origin, plan)
    origin.facts["reference"], origin.facts["not_compared"] = plan.sentence, _not_compared(origin)
    ids = decoder_cases.texts(_vocabulary(graph_model))
    with torch.no_grad(), quiet():
        logits = model(input_ids=torch.from_numpy(ids), use_cache=False).logits.float().numpy()
    module = DecoderModule(model, with_past=sizes is not None)

    def run(feeds: Feeds) -> object:
        every = {IDS: feeds[IDS], MASK: feeds[MASK], POSITIONS: positions(feeds[MASK].astype(np.int64))} | feeds
        return module(*(_as_float32(array) for array in every.values()))

    with quiet():
        reading = decoder_cases.reading(_feed_of(graph_model), ids, logits)
        cases = decoder_cases.cases(sizes, ids, logits) if sizes else reading
        return proof.prove(graph_model, cases, exporters.DTYPES[dtype], proof.Source(model, run))


def _vocabulary(graph_model: ir.Model) -> int:
    """How many tokens the logits tell apart."""
    shape = next(value.shape for value in graph_model.graph.outputs if value.name == LOGITS)
    size = shape[-1] if shape else None
    assert isinstance(size, int)  # the interface that export gave it
    return size


def _feed_of(graph_model: ir.Model) -> decoder_cases.Feed:
    """The inputs of a graph without a cache, those of them that it reads."""
    names = [str(value.name) for value in graph_model.graph.inputs]

    def feed(ids: decoder_cases.Ids, mask: decoder_cases.Ids) -> Feeds:
        every: Feeds = {IDS: ids, MASK: mask, POSITIONS: positions(mask)}
        return {name: every[name] for name in names}

    return feed


def _not_compared(origin: Unloaded) -> list[str]:
    """What the proof's texts are too short to show."""
    window = getattr(origin.model.config.get_text_config(), "sliding_window", None)
    beyond = isinstance(window, int) and window >= decoder_cases.LENGTH
    return [
        f"texts longer than {decoder_cases.LENGTH} tokens",
        *([f"attention beyond its window of {window} tokens"] if beyond else []),
    ]


def _as_float32(array: NDArray[np.generic]) -> torch.Tensor:
    """Tokens as they are, a cache as the reference computes it."""
    tensor = torch.from_numpy(array)
    return tensor.float() if tensor.is_floating_point() else tensor


def _graph(origin: Unloaded, opset: int, with_past: bool) -> ir.Model:
    """The graph without values: of two layers a kind where the trace shows that they are alike, else of all."""
    few = layers.shallow(origin.model, origin.build)
    if isinstance(few, layers.Shallow):
        graph_model = _trace(few.model, opset, with_past)
        try:
            replication.replicate(graph_model, few.path, few.stands_for, LAYER_OF_CACHE)
        except replication.NotAlikeError as error:
            few = layers.Whole(origin.model, str(error))
        else:
            origin.facts["traced"] = f"{few.traced} layers, copied to {len(few.stands_for)}"
            return graph_model
    origin.facts["traced"] = f"whole: {few.reason}"
    return _trace(few.model, opset, with_past)


def _trace(model: PreTrainedModel, opset: int, with_past: bool) -> ir.Model:
    with quiet():
        call = DecoderModule(model, with_past=with_past).call()
    graph_model = tracing.trace(call, opset)
    canonical.canonicalise(graph_model, weights_of(model), axes=TOTALS)
    return graph_model


def weights_of(model: PreTrainedModel) -> set[str]:
    """Every name of a parameter or a buffer."""
    named = (model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False))
    return {name for one in named for name, _ in one}
