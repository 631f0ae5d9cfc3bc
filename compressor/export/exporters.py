"""What every exporter hands over: graphs, made one at a time, and the way to compare their files with their origin.

    prepare(source, options)  ->  "fill-mask", Exported({"model.onnx": make}, prove)

The catalog names the exporter of a task.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx_ir as ir

from compressor import catalog, sources
from compressor.artifact import MODEL
from compressor.errors import RequestError
from compressor.export import proof, tasks
from compressor.export.tracing import WRAPPED, Call, trace
from compressor.graph import narrow
from compressor.graph.session import load_model
from compressor.recipe.recipe import Export
from compressor.sources import Source

DTYPES = {"float32": ir.DataType.FLOAT, "float16": ir.DataType.FLOAT16, "bfloat16": ir.DataType.BFLOAT16}


@dataclass(frozen=True)
class Exported:
    """Graphs by file name, nothing traced yet; `prove(folder)` reads the files that they became.

    `prove` raises LimitMissedError when a graph departs from its origin.
    """

    graphs: Mapping[str, Callable[[], ir.Model]]
    prove: Callable[[Path], list[proof.Difference]]
    facts: Mapping[str, Any] = field(default_factory=dict)


def prepare(source: Source, options: Export) -> tuple[str, Exported]:
    """What a model is for, and its exporter, ready to trace."""
    if source.kind != sources.CHECKPOINT:
        if options.task:
            raise RequestError(f"{source.name}: export.task chooses the class of a checkpoint, and this is none")
        return source.kind, catalog.resolve(catalog.EXPORTERS[source.kind])(source, options)
    task = tasks.find(sources.whole_config(source.folder), options.task)
    return task.name, catalog.resolve(catalog.EXPORTERS[task.exporter])(source, task, options)


def of_call(
    call: Call, options: Export, make: Callable[[], ir.Model] | None = None, facts: Mapping[str, Any] | None = None
) -> Exported:
    """The graph of one call, held to what torch says at other sizes."""
    return Exported(
        {MODEL: make or functools.partial(trace, call, options.opset)},
        lambda folder: prove(folder / MODEL, call, options),
        facts or {},
    )


def prove(path: Path, call: Call, options: Export, cases: Iterable[proof.Case] | None = None) -> list[proof.Difference]:
    """A call's graph against torch, at its sizes or in the cases given. Raises: LimitMissedError when they differ."""
    origin = proof.Source(getattr(call.torch_side, WRAPPED), call.answer)
    chosen = call.cases() if cases is None else cases
    return proof.prove(runnable(path, options), chosen, DTYPES[options.dtype], origin)


def runnable(path: Path, options: Export) -> Path | ir.Model:
    """The graph as the CPU can run it: the half types, for which it has few kernels, in float32 and rounded."""
    return path if options.dtype == "float32" else narrow.runnable(load_model(path), DTYPES[options.dtype])
