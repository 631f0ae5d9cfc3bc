"""Limits in a row are one limit.

Relu(Clip(x, -1, 6))             ->  Clip(x, 0, 6)
Min(Max(x, 0), 6)                ->  Clip(x, 0, 6)
Max(Max(x, -1), 2)               ->  Max(x, 2)
Clip(Clip(x, -1, 0), 1, 2)       stays: the result would be constant, and nobody means that
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import numpy as np
import onnx_ir as ir

from passes.editing.constants import constant
from passes.local import LocalPass, Refused, Scope, producer_of, require, sole_reader

FAMILY = ("Clip", "Max", "Min", "Relu")
FIRST_CLIP_WITH_INPUTS = 11
FIRST_THAT_BROADCAST = 8  # Max and Min
FLOATS = {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE}  # whole numbers: no Clip on every provider


class Limits(NamedTuple):
    """min(max(x, low), high); infinite where there is none. A Clip has both: it cuts infinities to finite numbers."""

    low: float
    high: float

    def of(self, number: float) -> float:
        return min(max(number, self.low), self.high)


class ActivationMerging(LocalPass):
    """Merge two of Relu, Clip, Min and Max with constant scalars, where the first is read by the second alone.

    [low, high] and then [low', high'] is [low, high] cut by the second. Refused where that leaves less than an interval
    (the order of the two then matters, and NaN), and for types without a Clip.
    """

    operators: ClassVar[frozenset[str]] = frozenset(FAMILY)

    def rewrite(self, node: ir.Node, scope: Scope) -> bool:
        outer = _limits(node, scope)
        middle = outer[0] if outer else None
        first = producer_of(middle, *FAMILY)
        if outer is None or middle is None or first is None or not sole_reader(middle) or first.graph is not node.graph:
            return False
        inner = _limits(first, scope)
        if inner is None or inner[0] is None:
            return False
        limits = Limits(outer[1].of(inner[1].low), outer[1].of(inner[1].high))
        kind = "Clip" if node.op_type == first.op_type == "Clip" else _operator(limits)
        if middle.dtype not in FLOATS and kind not in (node.op_type, first.op_type):
            raise Refused(f"there is no {kind} of {middle.dtype} on every provider")
        if not limits.low < limits.high:
            raise Refused(f"{inner[1]} and {outer[1]} leave no interval")
        _become(node, kind, inner[0], limits, scope)
        return True


def _limits(node: ir.Node, scope: Scope) -> tuple[ir.Value | None, Limits] | None:
    """What is limited, and how; None where a run decides."""
    if node.op_type == "Relu":
        return node.inputs[0], Limits(0.0, np.inf)
    if node.op_type == "Clip":
        found = _clip_limits(node, scope)
        return None if found is None else (node.inputs[0], found)
    if len(node.inputs) != 2:
        return None
    for value, bound in (node.inputs, node.inputs[::-1]):
        number = _scalar(bound, value, scope)
        if number is not None:
            return value, Limits(number, np.inf) if node.op_type == "Max" else Limits(-np.inf, number)
    return None


def _clip_limits(node: ir.Node, scope: Scope) -> Limits | None:
    widest = _widest(node.outputs[0], scope)
    if scope.opset < FIRST_CLIP_WITH_INPUTS:
        low, high = node.attributes.get_float("min", widest.low), node.attributes.get_float("max", widest.high)
        return Limits(low, high) if low <= high else None
    bounds = list(widest)
    for place, value in enumerate(node.inputs[1:]):
        if value is not None:
            tensor = constant(value)
            if tensor is None or tensor.size != 1:
                return None
            bounds[place] = float(tensor.numpy().reshape(-1)[0])
    return Limits(*bounds) if bounds[0] <= bounds[1] else None


def _scalar(bound: ir.Value | None, value: ir.Value | None, scope: Scope) -> float | None:
    """A single number that adds no axis to what it limits."""
    tensor, shape = constant(bound), scope.symbols.shape(value)
    if tensor is None or tensor.size != 1 or shape is None or len(tensor.shape) > len(shape):
        return None
    number = float(tensor.numpy().reshape(-1)[0])
    return None if np.isnan(number) else number


def _widest(value: ir.Value, scope: Scope) -> Limits:
    """The bounds that a Clip has where none are written: the largest finite numbers."""
    dtype = value.dtype or ir.DataType.FLOAT
    if dtype not in FLOATS:
        return Limits(-np.inf, np.inf)
    highest = float(np.finfo(dtype.numpy() if scope.opset >= FIRST_CLIP_WITH_INPUTS else np.float32).max)
    return Limits(-highest, highest)


def _operator(limits: Limits) -> str:
    if np.isfinite(limits).all():
        return "Clip"
    if limits == Limits(0.0, np.inf):
        return "Relu"
    return "Max" if np.isfinite(limits.low) else "Min"


def _become(node: ir.Node, kind: str, value: ir.Value, limits: Limits, scope: Scope) -> None:
    broadcasts = kind not in ("Max", "Min") or scope.opset >= FIRST_THAT_BROADCAST
    require(broadcasts, f"before opset 8 a {kind} widens nothing")
    widest = _widest(node.outputs[0], scope)
    given = {
        "min": None if limits.low == widest.low else limits.low,
        "max": None if limits.high == widest.high else limits.high,
    }
    names = {"Clip": ("min", "max"), "Max": ("min",), "Min": ("max",), "Relu": ()}[kind]
    node.attributes.clear()
    node.op_type = kind
    node.resize_inputs(1)
    node.replace_input_with(0, value)
    if kind == "Clip" and scope.opset < FIRST_CLIP_WITH_INPUTS:
        stated = ((name, given[name]) for name in names)
        node.attributes.update({name: ir.AttrFloat32(name, one) for name, one in stated if one is not None})
    else:
        _read_bounds(node, {name: given[name] for name in names}, scope)


def _read_bounds(node: ir.Node, numbers: Mapping[str, float | None], scope: Scope) -> None:
    """Constants as the inputs behind the first; those left out at the end are no inputs."""
    value, stem = node.inputs[0], node.outputs[0].name
    dtype = ((value.dtype if value is not None else None) or ir.DataType.FLOAT).numpy()
    bounds = [
        None if number is None else scope.constant(np.array(number, dtype), f"{stem}_{name}")
        for name, number in numbers.items()
    ]
    while bounds and bounds[-1] is None:
        bounds.pop()
    node.resize_inputs(1 + len(bounds))
    for place, bound in enumerate(bounds, start=1):
        node.replace_input_with(place, bound)
