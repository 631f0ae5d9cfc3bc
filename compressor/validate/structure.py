"""Structure: the file passes the ONNX checker, ONNX Runtime loads it, and its interface is the reference's."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from compressor.errors import RequestError
from compressor.graph.probe import is_bfloat16
from compressor.graph.session import ON_CPU
from compressor.report.report import Measurement
from compressor.validate.subject import Subject


def measure(candidate: Subject, reference: Subject) -> list[Measurement]:
    """The number of structural faults, at most 0; the note names them."""
    faults = _read_faults(candidate) or [
        *_checker_faults(candidate),
        *_load_faults(candidate),
        *_interface_faults(candidate, reference),
    ]
    return [Measurement("structure faults", len(faults), limit=0, note="; ".join(faults))]


def _read_faults(subject: Subject) -> list[str]:
    """Of a file that is no graph, or whose weights are missing, there is nothing more to say."""
    try:
        _ = subject.model
    except RequestError as error:
        return [str(error)]
    return []


def _checker_faults(subject: Subject) -> list[str]:
    import onnx

    try:
        onnx.checker.check_model(str(subject.path))
    except (onnx.checker.ValidationError, ValueError) as error:
        return [f"checker: {str(error).strip().splitlines()[0]}"]
    return []


def _load_faults(subject: Subject) -> list[str]:
    try:
        subject.session.get_inputs()
    except RequestError as error:
        if subject.backend is ON_CPU and is_bfloat16(subject.model):
            return [f"{error}; a CPU has next to no kernels for bfloat16: `--provider cuda` validates it where it runs"]
        return [str(error)]
    return []


def _interface_faults(candidate: Subject, reference: Subject) -> list[str]:
    faults = []
    for kind, values in (("input", _inputs), ("output", lambda model: model.graph.outputs)):
        ours, theirs = (_signature(values(one.model)) for one in (candidate, reference))
        faults += [f"{kind} {name} is {ours.get(name, 'missing')}, not {expected}"
                   for name, expected in theirs.items() if ours.get(name) != expected]  # fmt: skip
        faults += [f"{kind} {name} is new" for name in ours.keys() - theirs.keys()]
    return faults


def _inputs(model: ir.Model) -> list[ir.Value]:
    """Before IR version 4 every weight had to be listed among them, whether or not anybody meant to set it."""
    return [one for one in model.graph.inputs if model.ir_version >= 4 or not one.is_initializer()]


def _signature(values: Iterable[ir.Value]) -> dict[str, str]:
    """Name -> type and rank; free axes may be named differently by another exporter."""
    return {str(v.name): f"{v.dtype}{[x if isinstance(x, int) else None for x in v.shape or ()]}" for v in values}
