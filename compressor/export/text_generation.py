"""A decoder behind the interface of all exporters; how it is traced stands in `causal_lm`."""

from __future__ import annotations

from compressor.artifact import MODEL
from compressor.export import causal_lm
from compressor.export.exporters import Exported
from compressor.export.tasks import Task
from compressor.recipe.recipe import Export
from compressor.sources import Source


def prepare(source: Source, task: Task, options: Export) -> Exported:
    """A checkpoint of a decoder -> one graph for prefill and decode."""
    del task
    return _exported(source, options, with_past=True)


def without_past(source: Source, task: Task, options: Export) -> Exported:
    """A checkpoint of a decoder -> one graph that reads whole texts: to score or to embed them."""
    del task
    return _exported(source, options, with_past=False)


def _exported(source: Source, options: Export, *, with_past: bool) -> Exported:
    origin = causal_lm.load(source.folder, options.opset, options.dtype)
    return Exported(
        {MODEL: lambda: causal_lm.export(origin, options.opset, with_past=with_past)},
        lambda folder: causal_lm.prove(origin, folder / MODEL, options.dtype),
        origin.facts,
    )
