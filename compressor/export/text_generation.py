"""A decoder behind the interface of all exporters; how it is traced stands in `causal_lm`."""

from __future__ import annotations

from compressor.artifact import MODEL
from compressor.export import causal_lm
from compressor.export.exporters import Exported
from compressor.export.tasks import Task
from compressor.recipe import Export
from compressor.sources import Source


def prepare(source: Source, task: Task, options: Export) -> Exported:
    """A checkpoint of a decoder -> one graph for prefill and decode."""
    model = causal_lm.load(source.folder, options.opset)
    return Exported(
        {MODEL: lambda: causal_lm.export(model, options.opset)},
        lambda folder: causal_lm.prove(model, folder / MODEL),
    )
