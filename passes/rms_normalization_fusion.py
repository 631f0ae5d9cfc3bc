"""Dividing by the root of the mean square is RMSNormalization.

    y = w * (x / sqrt(mean(x^2) + epsilon))        mean over the last axis
 -> y = RMSNormalization(x, w)                     opset 23

Zhang and Sennrich 2019 (arXiv 1910.07467). A graph in half precision squares in float32 between two casts; the
operator does so by itself (stash_type 1).
"""

from __future__ import annotations

from typing import NamedTuple

import onnx_ir as ir

from passes.editing.building import Builder
from passes.editing.constants import constant
from passes.editing.replacing import hand_over
from passes.formulas.matching import made_by, origin, scalar, uncast
from passes.formulas.norms import inverse_of, mean_under_root, over_last_axis, squared
from passes.fusion import Fusion
from passes.local import Refused


class Norm(NamedTuple):
    """A written-out norm; without a weight, its elements are ones."""

    x: ir.Value
    epsilon: float
    weight: ir.Value | None


class RmsNormalizationFusion(Fusion[Norm]):
    """Turn each written-out root-mean-square norm with its weight into one RMSNormalization."""

    operator, first_opset = "RMSNormalization", 23

    def find(self, node: ir.Node) -> Norm | None:
        return _weighted(node) or _unweighted(node)

    def near(self, node: ir.Node) -> str:
        return _why_not(node) if node.domain == "" and node.op_type in ("Mul", "Div") else ""

    def fuse(self, node: ir.Node, found: Norm, build: Builder) -> None:
        if reason := _objection(found, node.outputs[0]):
            raise Refused(reason)
        inputs = [found.x, found.weight or _ones(found.x, build)]
        attributes = {"axis": -1, "epsilon": found.epsilon}
        hand_over(node.outputs[0], build.one("RMSNormalization", inputs, attributes), build.names)


def _weighted(node: ir.Node) -> Norm | None:
    """A norm times a constant."""
    if node.domain or node.op_type != "Mul":
        return None
    for at in (0, 1):
        weight, scaled = node.inputs[at], node.inputs[1 - at]
        norm = _norm(uncast(scaled)) if scaled is not None else None
        if norm is not None and weight is not None and constant(origin(weight)) is not None:
            return Norm(*norm, origin(weight))
    return None


def _unweighted(node: ir.Node) -> Norm | None:
    """A norm that is not scaled, or whose weight is all ones and was taken for nothing."""
    if node.domain or node.op_type not in {"Mul", "Div"} or _is_scaled(node.outputs[0]):
        return None
    norm = _norm(node.outputs[0])
    return Norm(*norm, None) if norm is not None else None


def _is_scaled(y: ir.Value) -> bool:
    """Whether a weight follows, at once or behind a cast."""
    return any(
        _weighted(reader) is not None or (reader.op_type == "Cast" and _is_scaled(reader.outputs[0]))
        for reader in y.consumers()
    )


def _ones(x: ir.Value, build: Builder) -> ir.Value:
    width, dtype = _width(x), x.dtype
    assert width is not None, "held by _objection"
    assert dtype is not None, "held by _objection"
    return build.vector([1.0] * width, dtype)


def _width(x: ir.Value) -> int | None:
    size = x.shape[-1] if x.shape is not None and len(x.shape) else None
    return size if isinstance(size, int) else None


def _objection(found: Norm, y: ir.Value) -> str:
    x, weight = found.x, found.weight
    if weight is None and _width(x) is None:
        return "it has no weight, and how long one would be is not known"
    if weight is not None and (weight.shape is None or weight.shape.dims != (_width(x),)):
        return f"its weight '{weight.name}' of shape {weight.shape} is no vector for an axis of {_width(x)}"
    types = {one.dtype for one in (x, weight, y) if one is not None and not (one is y and y.dtype is None)}
    if len(types) > 1 or None in types:
        return f"input, weight and output are {', '.join(map(str, types))}, and the operator has one type"
    return ""


def _norm(value: ir.Value) -> tuple[ir.Value, float] | None:
    """x and epsilon of  x * rsqrt(mean(x^2) + epsilon)  or  x / sqrt(...)."""
    node = made_by(value, "Mul", "Div")
    if node is None or node.inputs[0] is None or node.inputs[1] is None:
        return None
    orders = ((0, 1), (1, 0)) if node.op_type == "Mul" else ((0, 1),)
    for at_x, at_root in orders:
        x, root = node.inputs[at_x], node.inputs[at_root]
        epsilon = _root_mean_square(root, node.op_type == "Mul", x)
        if x is not None and epsilon is not None:
            return uncast(x), epsilon
    return None


def _root_mean_square(value: ir.Value | None, inverted: bool, x: ir.Value | None) -> float | None:
    """epsilon, where the value is (one over) the root of epsilon plus the mean square of this very x."""
    if inverted:
        value = inverse_of(value)
    found = mean_under_root(value)
    if found is None or x is None or not over_last_axis(found[0]):
        return None
    source = squared(found[0].inputs[0])
    return found[1] if source is not None and uncast(source) is uncast(x) else None


def _why_not(node: ir.Node) -> str:
    for x, root in (node.inputs, node.inputs[::-1]) if node.op_type == "Mul" else (node.inputs,):
        found = mean_under_root(inverse_of(root) if node.op_type == "Mul" else root)
        source = squared(found[0].inputs[0]) if found is not None else None
        if found is None or source is None or x is None or scalar(x) is not None:  # 1 / sqrt is a factor of the norm
            continue
        if not over_last_axis(found[0]):
            return f"'{found[0].outputs[0].name}' is not a mean over the last axis alone, or drops it"
        if uncast(source) is not uncast(x):
            return f"'{x.name}' is divided by the root of the squares of '{source.name}'"
    return ""
