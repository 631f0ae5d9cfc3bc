"""What every exporter hands over: graphs, made one at a time, and the way to compare their files with their origin.

    prepare(source, options)  ->  "fill-mask", Exported({"model.onnx": make}, prove)

The catalog names the exporter of a task.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx_ir as ir

from compressor import catalog, sources
from compressor.export import proof, tasks
from compressor.export.tracing import WRAPPED, Call, trace
from compressor.recipe import Export
from compressor.sources import Source

# numpy has no bfloat16 of its own, and ONNX Runtime's CPU few kernels for it: such a graph is proven in float32.
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
    task = tasks.find(sources.whole_config(source.folder), options.task)
    return task.name, catalog.resolve(catalog.EXPORTERS[task.exporter])(source, task, options)


def of_calls(calls: Mapping[str, Call], options: Export, **facts: Any) -> Exported:
    """One graph a call, each held to what torch says at other sizes."""

    def prove(folder: Path) -> list[proof.Difference]:
        return [one for name, call in calls.items() for one in _proven(folder / name, call, options)]

    makers = {name: functools.partial(trace, call, options.opset) for name, call in calls.items()}
    return Exported(makers, prove, facts)


def _proven(path: Path, call: Call, options: Export) -> list[proof.Difference]:
    origin = proof.Source(getattr(call.module, WRAPPED), call.answer)
    return proof.prove(path, call.cases(), DTYPES[options.dtype], origin)
