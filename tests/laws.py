"""What every member of a family owes its users; a new member is subject to them from its first day."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import torch

from compressor.quantize.qtensor import PER_CHANNEL, Grid, QTensor
from compressor.quantize.rtn import RoundToNearest
from passes.dead_node_elimination import DeadNodeElimination

Outputs = Mapping[str, np.ndarray]

# How far `scale_search` shrinks a scale, in steps of 0.05: to 0.65, and at 2 bits to 0.3 where no error is carried on.
STEPS = {8: 8, 4: 8, 3: 8, 2: 15}

# ONNX Runtime has no kernels for operators older than opset 7; such graphs are checked for their form alone.
OLDEST_OPSET_THAT_RUNS = 7

# The longest sum in graphs.py has 128 products, and their rounding errors add up like a walk: sqrt(128) = 11, and as
# much again for the operators behind it.
ULPS = 32

# --- running a graph -------------------------------------------------------------------------------------------------


def to_bytes(model: ir.Model) -> bytes:
    """The whole model in one string, external data included."""
    twin = model.clone()
    ir.external_data.load_to_model(twin)
    return ir.to_proto(twin).SerializeToString()


def open_session(model: ir.Model) -> ort.InferenceSession:
    """With ONNX Runtime's own graph optimizations off: level 1 already rewrites what we want to test."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    return ort.InferenceSession(to_bytes(model), options, providers=["CPUExecutionProvider"])


def run(model: ir.Model, feeds: Mapping[str, np.ndarray] | None = None) -> Outputs:
    """The outputs by name, on the feeds of `feeds_for` where none are given."""
    session = open_session(model)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds_for(model) if feeds is None else feeds), strict=True))


def feeds_for(model: ir.Model, free_dimension: int = 2) -> dict[str, np.ndarray]:
    """Random inputs, the same for each call; integers are 0 or 1, which every index can bear."""
    required = [value for value in model.graph.inputs if not value.is_initializer()]
    return {value.name: _random(value, np.random.default_rng(7), free_dimension) for value in required}


def _random(value: ir.Value, rng: np.random.Generator, free_dimension: int) -> np.ndarray:
    shape = [dim if isinstance(dim, int) and dim >= 0 else free_dimension for dim in value.shape or ()]
    dtype = value.dtype.numpy()
    return rng.normal(size=shape).astype(dtype) if value.dtype.is_floating_point() else rng.integers(0, 2, shape, dtype)


def assert_same(expected: Outputs, outputs: Outputs) -> None:
    assert expected.keys() == outputs.keys()
    for name, array in expected.items():
        assert (array.dtype, array.shape) == (outputs[name].dtype, outputs[name].shape), name
        if array.dtype.kind == "f":
            tolerance = ULPS * np.finfo(array.dtype).eps
            scale = np.abs(array[np.isfinite(array)]).max(initial=0)
            np.testing.assert_allclose(outputs[name], array, rtol=tolerance, atol=tolerance * scale, err_msg=name)
        else:
            np.testing.assert_array_equal(outputs[name], array, err_msg=name)


# --- passes ----------------------------------------------------------------------------------------------------------


def interface(model: ir.Model) -> Any:
    proto = ir.to_proto(model).graph
    return [(value.name, value.type.SerializeToString()) for value in (*proto.input, *proto.output)]


def defaults(model: ir.Model) -> set[str]:
    return {value.name for value in model.graph.inputs if value.is_initializer()}


def check_pass(graph_pass: ir.passes.PassBase, model: ir.Model) -> None:
    """Same outputs, same interface, valid, done after one run, and every refusal has its reason."""
    original = model.clone()
    result = graph_pass(model).model
    assert all(refusal.node and refusal.op_type and refusal.reason for refusal in graph_pass.refusals)
    if to_bytes(result) == to_bytes(original):  # what was not touched is as right as it was
        return
    onnx.checker.check_model(to_bytes(result), full_check=True)
    assert interface(result) == interface(original)
    assert defaults(result) == defaults(original)
    if original.opset_imports[""] >= OLDEST_OPSET_THAT_RUNS:
        assert_same(run(original), run(result))
    assert not graph_pass(result).modified, "a second run found something to do"
    reloaded = ir.from_proto(onnx.load_from_string(to_bytes(result)))
    assert not graph_pass(reloaded).modified, "a second run found something to do once the file was read again"


def left_by(graph_pass: ir.passes.PassBase, model: ir.Model) -> list[str]:
    """The operators that a pass leaves once its dead nodes are gone, in order; the answers are those of before."""
    original = model.clone()
    graph_pass(model)
    DeadNodeElimination()(model)
    assert_same(run(original), run(model))
    return [node.op_type for node in model.graph.all_nodes()]


def reasons(graph_pass: ir.passes.PassBase, model: ir.Model) -> list[str]:
    """Why a pass leaves a model alone."""
    assert not graph_pass(model).modified
    return [refusal.reason for refusal in graph_pass.refusals]


# --- solvers ---------------------------------------------------------------------------------------------------------


class Solver(Protocol):
    grid: Grid
    group_size: int

    def solve(self, weight: torch.Tensor, moment: torch.Tensor) -> QTensor: ...


@dataclass(frozen=True)
class Layer:
    """A weight [in, out] and the second moment [in, in] of its inputs, float64: no rounding but the grid's."""

    weight: torch.Tensor
    moment: torch.Tensor

    def copy(self) -> Layer:
        """One that may be written to."""
        return Layer(self.weight.clone(), self.moment.clone())

    def loss(self, solved: QTensor) -> float:
        """What the outputs lose: |X W - X Q|^2 = trace(E^T H E)."""
        error = self.weight - solved.dequantize()
        return float((error * (self.moment @ error)).sum())


def rows_for(group_size: int) -> int:
    """Four groups and a short fifth, for a group hand-over bug survives two; and past the solvers' blocks of 128."""
    return 4 * (64 if group_size == PER_CHANNEL else max(group_size, 32)) + 5


@functools.cache
def correlated_layer(rows: int, columns: int = 6) -> Layer:
    """Inputs that follow each other like a walk, three of them ten times as loud: what trained networks show."""
    rng = np.random.default_rng(rows)
    mixed = rng.normal(size=(2 * rows, rows)) @ np.tril(0.9 ** np.abs(np.subtract.outer(range(rows), range(rows))))
    mixed[:, rng.choice(rows, 3, replace=False)] *= 10
    weight = rng.normal(size=(rows, columns))
    return Layer(torch.from_numpy(weight), torch.from_numpy(mixed.T @ mixed))


def white_layer(rows: int, columns: int = 6, zeros: slice = slice(0), positive: slice = slice(0)) -> Layer:
    """Inputs that know nothing of each other; rows of zeros and rows of one sign where they are asked for."""
    weight = np.random.default_rng(rows).normal(size=(rows, columns))
    weight[zeros], weight[positive] = 0, np.abs(weight[positive])
    return Layer(torch.from_numpy(weight), 3 * torch.eye(rows, dtype=torch.float64))


def check_solver(solver: Solver) -> None:
    """Codes and zero points on the grid; never worse than rounding, and the same where inputs are white."""
    rows, rounding = rows_for(solver.group_size), RoundToNearest(solver.grid, solver.group_size)
    correlated = correlated_layer(rows)
    solved = solver.solve(correlated.weight, correlated.moment)
    assert_on_grid(solved, solver, rows)
    assert correlated.loss(solved) <= correlated.loss(rounding.solve(correlated.weight))

    size = rows if solver.group_size == PER_CHANNEL else solver.group_size
    white = white_layer(rows, zeros=slice(size, 2 * size), positive=slice(2 * size, 3 * size))
    solved = solver.solve(white.weight, white.moment)
    assert torch.equal(solved.q, rounding.solve(white.weight).q)
    assert_on_grid(solved, solver, rows)
    assert not solved.dequantize()[size : 2 * size].any(), "a group of zeros is no longer zero"


def assert_on_grid(solved: QTensor, solver: Solver, rows: int) -> None:
    groups = 1 if solver.group_size == PER_CHANNEL else -(-rows // solver.group_size)
    assert (solved.bits, solved.group_size) == (solver.grid.bits, solver.group_size)
    assert solved.scale.shape == solved.zero.shape == (groups, solved.shape[1])
    assert (solved.q.dtype, solved.zero.dtype) == (torch.uint8, torch.uint8)
    assert max(int(solved.q.max()), int(solved.zero.max())) <= solver.grid.levels
    assert bool((solved.scale > 0).all() if solver.grid.scheme != "symmetric" else (solved.scale != 0).all())
    assert solved.dequantize().isfinite().all()


def fit_slowly(weight: np.ndarray, grid: Grid) -> tuple[float, float]:
    """Scale and zero point of one group of one column, as `qtensor.py` has them in its first lines."""
    levels, found = 2**grid.bits - 1, []
    for scale, zero in _tried(weight, grid):
        error = np.square((encode_slowly(weight, scale, zero, levels) - zero) * scale - weight).sum()
        found.append((error, scale, zero))
    _, scale, zero = min(found, key=lambda one: one[0])
    return scale, zero


def _tried(weight: np.ndarray, grid: Grid) -> list[tuple[float, float]]:
    """Every scale and zero point that the scheme looks at, the first of equally good ones first."""
    steps = 8 if grid.carried else STEPS[grid.bits]
    factors = [1 - 0.05 * step for step in range(steps if grid.scale_search else 1)]
    low, high, levels, middle = min(weight.min(), 0), max(weight.max(), 0), 2**grid.bits - 1, 2.0 ** (grid.bits - 1)
    if not weight.any():
        return [(1.0, 0.0 if grid.scheme == "zero_point" else middle)]
    above = [(factor * np.abs(weight).max() / (middle - 1), middle) for factor in factors]
    ends = [(factor * (high - low) / levels, np.rint(-low / (high - low) * levels)) for factor in factors]
    if grid.scheme != "symmetric":
        return above if grid.scheme == "absmax" else ends
    both = [(sign * scale, middle) for scale, _ in above for sign in (1, -1)]
    one_sign = len(weight) >= 32 and (weight.min() >= 0 or weight.max() <= 0)
    return [*both, (-(high if high > -low else low) / middle, middle), *(ends if one_sign else [])]


def encode_slowly(weight: np.ndarray, scale: float, zero: float, levels: int) -> np.ndarray:
    """The nearest code that the grid has."""
    return np.clip(np.rint(weight / scale + zero), 0, levels)
