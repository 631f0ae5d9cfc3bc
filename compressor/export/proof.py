"""An exported graph is right when ONNX Runtime, its optimizations off, answers as torch does.

    Case("padded", answer, expected)      answer(run) calls the graph, once or in steps, and returns named outputs
    prove(path, cases, DataType.FLOAT)    -> the worst difference of every case; beyond the tolerance it raises

What torch expects is computed once, the plain way: a text alone, no cache, no padding. The graph has to say the same
however it is called. Where it does not, the calls of the failed case are replayed with every module tapped on both
sides, and the error names the first module whose output departs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from compressor.errors import LimitMissedError, RequestError
from compressor.export import provenance
from compressor.graph.decoder import Feeds
from compressor.graph.session import load_model, open_session

Outputs = Mapping[str, NDArray[Any]]
Run = Callable[[Feeds], Outputs]

# Of the largest expected value. float32: sums in another order, a few hundred roundings of 2**-24 deep. The half types:
# weights and every value between rounded to 11 and 8 bits, some tens of layers deep, against torch in float32.
TOLERANCE = {ir.DataType.FLOAT: 1e-4, ir.DataType.FLOAT16: 2e-2, ir.DataType.BFLOAT16: 1e-1}


@dataclass(frozen=True)
class Case:
    """One way to call a graph, and what must come out."""

    name: str
    answer: Callable[[Run], Outputs]
    expected: Outputs = field(repr=False)


@dataclass(frozen=True)
class Difference:
    """The worst output of a case: largest |difference| over the largest |expected|."""

    case: str
    output: str
    difference: float
    largest_expected: float


@dataclass(frozen=True)
class Source:
    """The torch side, for the search after a failure: `run` takes the graph's inputs; `module` has its names."""

    module: nn.Module = field(repr=False)
    run: Callable[[Feeds], object] = field(repr=False)


def prove(
    graph: Path | ir.Model,
    cases: Iterable[Case],
    dtype: ir.DataType,
    source: Source | None = None,
) -> list[Difference]:
    """Run every case and return its worst difference; weights stay in their file, mapped.

    Raises: LimitMissedError that names case, output and, with a `source`, the first module that departs.
    """
    session = open_session(graph, "exact", lean=True)
    names = [one.name for one in session.get_outputs()]
    calls: list[Feeds] = []

    def run(feeds: Feeds) -> Outputs:
        calls.append(feeds)
        return dict(zip(names, session.run(names, feeds), strict=True))

    found: list[Difference] = []
    for case in cases:
        calls.clear()
        found.append(_worst(case, case.answer(run)))
        if not found[-1].difference <= TOLERANCE[dtype]:  # a NaN is no agreement
            where = first_departure(graph, source, calls, TOLERANCE[dtype]) if source else ""
            raise LimitMissedError(_sentence(graph, found[-1], TOLERANCE[dtype], where))
    return found


def same_call(name: str, feeds: Feeds, torch_side: Run) -> Case:
    """A case of one call that torch answers on the very same inputs."""
    return Case(name, lambda run: run(feeds), torch_side(feeds))


def relative_difference(expected: NDArray[Any], found: NDArray[Any]) -> float:
    """Largest |difference| over the largest |expected|; infinite where shapes, integers, NaNs or infinities differ."""
    if expected.shape != found.shape:
        return float("inf")
    a, b = expected.astype(np.float64), found.astype(np.float64)
    finite = np.isfinite(a)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return float("inf")
    worst = float(np.abs(a[finite] - b[finite]).max(initial=0.0))
    if worst == 0.0:
        return 0.0
    largest = float(np.abs(a[finite]).max(initial=0.0))
    return worst / largest if largest and np.isfinite(worst) else float("inf")


def first_departure(graph: Path | ir.Model, source: Source, calls: Iterable[Feeds], tolerance: float) -> str:
    """The first module, in the order of execution, whose output differs on the same inputs; empty when none does."""
    for feeds in calls:
        expected = _torch_taps(source, feeds)
        for module, values in _graph_taps(graph, expected, feeds):
            pairs = [(one, value) for one in expected[module] for value in values if one.shape == value.shape]
            nearest = min((relative_difference(one, value) for one, value in pairs), default=0.0)
            if not nearest <= tolerance:
                return module
    return ""


def _worst(case: Case, answer: Outputs) -> Difference:
    if missing := case.expected.keys() - answer.keys():
        raise RequestError(f"case '{case.name}': the graph has no output {', '.join(sorted(missing))}")
    differences = {name: relative_difference(expected, answer[name]) for name, expected in case.expected.items()}
    name = max(differences, key=lambda one: (np.isnan(differences[one]), differences[one]))
    return Difference(case.name, name, differences[name], float(np.abs(case.expected[name]).max(initial=0.0)))


def _sentence(graph: Path | ir.Model, worst: Difference, tolerance: float, where: str) -> str:
    name = graph.name if isinstance(graph, Path) else graph.graph.name
    place = f"; the first module whose output departs is {where}" if where else ""
    return (
        f"{name}: torch and ONNX Runtime differ: {worst.output} of case '{worst.case}' by "
        f"{worst.difference:.1e} of its largest value, and {tolerance:.0e} is allowed{place}"
    )


def _torch_taps(source: Source, feeds: Feeds) -> dict[str, list[NDArray[Any]]]:
    """Module -> the first floating-point output of each call of it, in the order in which modules finish."""
    taps: dict[str, list[NDArray[Any]]] = {}

    def tap(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            if (tensor := _first_float(output)) is not None:
                taps.setdefault(name, []).append(tensor.detach().float().numpy().copy())

        return hook

    with contextlib.ExitStack() as hooks, torch.no_grad():
        for name, module in source.module.named_modules():
            if name:
                hooks.callback(module.register_forward_hook(tap(name)).remove)
        source.run(feeds)
    return taps


def _graph_taps(
    graph: Path | ir.Model, modules: Iterable[str], feeds: Feeds
) -> Iterator[tuple[str, list[NDArray[Any]]]]:
    """What each module hands on in the graph, as the names of the nodes tell; a module may hand on several values."""
    model = load_model(graph) if isinstance(graph, Path) else graph
    handed_on = {module: provenance.outputs_of(model.graph, module) for module in modules}
    tapped = list(dict.fromkeys(value for values in handed_on.values() for value in values))
    known = set(model.graph.outputs)
    model.graph.outputs.extend(value for value in tapped if value not in known)
    names = [str(value.name) for value in tapped]
    found = dict(zip(names, open_session(model, "exact", lean=True).run(names, feeds), strict=True))
    for module, values in handed_on.items():
        yield module, [found[str(value.name)] for value in values]


def _first_float(output: Any) -> Tensor | None:
    if isinstance(output, Tensor):
        return output if output.is_floating_point() else None
    parts = output.values() if isinstance(output, Mapping) else output if isinstance(output, (tuple, list)) else ()
    return next((found for part in parts if (found := _first_float(part)) is not None), None)
