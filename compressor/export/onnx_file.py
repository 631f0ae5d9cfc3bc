"""A lone `.onnx` file becomes an artifact of ours: external data beside it, one operator set, one file format.

    opset 11, IR 6, weights inside  ->  opset 21, IR 10, weights in model.onnx.data

Raised to the wanted operator set where the conversion answers as the file did; kept as it is where it does not, and the
artifact says so. A graph is never taken down: a newer operator may have no older form.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir
import onnx_ir.passes.common as common_passes
from numpy.typing import NDArray

from compressor.artifact import MODEL
from compressor.errors import RequestError, in_a_line
from compressor.export import proof
from compressor.export.exporters import Exported
from compressor.export.tracing import IR_VERSION, quiet
from compressor.graph import probe
from compressor.graph.probe import Probe
from compressor.graph.session import load_model, open_session
from compressor.recipe.recipe import Export
from compressor.sources import Source

TOLERANCE = proof.TOLERANCE[ir.DataType.FLOAT]


def prepare(source: Source, options: Export) -> Exported:
    """A file -> one graph. Raises: RequestError when the file cannot be read or its types would have to change."""
    if options.dtype != "float32":
        raise RequestError(f"{source.name}: a graph has its types already; leave export.dtype out")
    path = source.folder / source.entry
    inputs = _inputs(path)
    model, reason = _raised(path, options.opset, inputs)
    notes = [f"{source.entry}: stays at opset {model.opset_imports.get('')}: {reason}"] if reason else []
    if inputs is None:
        notes.append(
            f"{source.entry}: not compared, for on inputs that we can make up it does not run, or not twice alike"
        )
    return Exported({MODEL: lambda: model}, lambda folder: _prove(path, folder / MODEL, inputs), {"fallbacks": notes})


def _inputs(path: Path) -> Probe | None:
    """Inputs at which the file runs and answers alike when it is asked twice; a random operator does not."""
    model = load_model(path)
    try:
        found = probe.find(model)
    except RequestError as error:  # it names the graph, and the reader knows the file
        raise RequestError(f"{path}: {error}") from None
    return found if found and _alike(found(model), found(model)) else None


def raised(path: Path, opset: int) -> tuple[ir.Model, str]:
    """The graph of a file at a later opset, held to the file's answers; or as it was, and why."""
    return _raised(path, opset, _inputs(path))


def _raised(path: Path, opset: int, inputs: Probe | None) -> tuple[ir.Model, str]:
    """The graph at an opset; or as it was, and why."""
    model, reason = load_model(path), ""
    was = model.opset_imports.get("", opset)
    if was < opset:
        reason = _convert(model, opset, inputs(model), inputs) if inputs else "a conversion could not be compared"
        model = load_model(path) if reason else model
    common_passes.ClearMetadataAndDocStringPass()(model)
    model.ir_version = IR_VERSION if was <= opset else max(model.ir_version, IR_VERSION)
    return model, reason


def _convert(model: ir.Model, opset: int, before: Mapping[str, NDArray[Any]], inputs: Probe) -> str:
    """Convert the graph in place; what went wrong, or nothing."""
    import onnxscript.version_converter as converter

    try:
        with quiet():
            converter.convert_version(model, opset, fallback=True)
        if model.opset_imports.get("") != opset:
            return "the converter has no rule for one of its operators"
        return "" if _alike(before, inputs(model)) else "what was converted does not answer as before"
    except Exception as error:  # neither converter has a common exception class
        return in_a_line(error)


def _alike(expected: Mapping[str, NDArray[Any]], found: Mapping[str, NDArray[Any]]) -> bool:
    return all(proof.relative_difference(expected[name], found[name]) <= TOLERANCE for name in expected)


def _prove(origin: Path, made: Path, inputs: Probe | None) -> list[proof.Difference]:
    """The file that was given against the file that was written."""
    session = open_session(origin, "exact")
    names = [one.name for one in session.get_outputs()]
    cases = [
        proof.same_call(f"call {at + 1}", feeds, lambda one: dict(zip(names, session.run(names, one), strict=True)))
        for at, feeds in enumerate(inputs.calls if inputs else ())
    ]
    return proof.prove(made, cases, ir.DataType.FLOAT)
