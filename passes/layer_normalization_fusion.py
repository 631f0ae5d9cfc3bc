"""Subtracting the mean and dividing by the standard deviation is LayerNormalization.

    d = x - mean(x); y = w * d / sqrt(mean(d^2) + epsilon) + b        means over the last axis
 -> y = LayerNormalization(x, w, b)                                   opset 17

Ba, Kiros and Hinton 2016 (arXiv 1607.06450). Exporters before opset 17 write it out, in nine nodes.
"""

from __future__ import annotations

from typing import NamedTuple

import onnx_ir as ir

from passes.editing.building import Builder
from passes.editing.constants import constant
from passes.editing.replacing import hand_over
from passes.formulas.matching import made_by, origin
from passes.formulas.norms import inverse_of, mean_under_root, over_last_axis, squared
from passes.fusion import Fusion
from passes.local import require


class Norm(NamedTuple):
    """A written-out norm with its weight; the bias where one is added."""

    x: ir.Value
    epsilon: float
    weight: ir.Value
    bias: ir.Value | None = None


class LayerNormalizationFusion(Fusion[Norm]):
    """Turn each written-out layer norm into one LayerNormalization.

    Weight and bias are constant vectors, as long as the last axis and of the type of the input.
    """

    operator, first_opset = "LayerNormalization", 17

    def find(self, node: ir.Node) -> Norm | None:
        return _biased(node) or (None if _awaits_bias(node) else _weighted(node))

    def near(self, node: ir.Node) -> str:
        return _why_not(node) if node.domain == "" and node.op_type in ("Mul", "Div") else ""

    def fuse(self, node: ir.Node, found: Norm, build: Builder) -> None:
        vectors = [found.weight] if found.bias is None else [found.weight, found.bias]
        width = found.x.shape[-1] if found.x.shape is not None and len(found.x.shape) else None
        for vector in vectors:
            fits = vector.shape is not None and vector.shape.dims == (width,)
            require(fits, f"'{vector.name}' of shape {vector.shape} is no vector for an axis of {width}")
            require(vector.dtype == found.x.dtype, f"'{vector.name}' is {vector.dtype} and its input {found.x.dtype}")
        attributes = {"axis": -1, "epsilon": found.epsilon}
        hand_over(node.outputs[0], build.one("LayerNormalization", [found.x, *vectors], attributes), build.names)


def _biased(node: ir.Node) -> Norm | None:
    if node.domain or node.op_type != "Add":
        return None
    for at in (0, 1):
        scaled, bias = made_by(node.inputs[at], "Mul"), node.inputs[1 - at]
        norm = _weighted(scaled) if scaled is not None and len(scaled.outputs[0].uses()) == 1 else None
        if norm is not None and bias is not None and constant(origin(bias)) is not None:
            return norm._replace(bias=origin(bias))
    return None


def _awaits_bias(node: ir.Node) -> bool:
    """The sum behind it is the last node of the formula."""
    readers = node.outputs[0].consumers()
    return len(node.outputs[0].uses()) == 1 and len(readers) == 1 and _biased(readers[0]) is not None


def _weighted(node: ir.Node) -> Norm | None:
    """A norm times a constant."""
    if node.domain or node.op_type != "Mul":
        return None
    for at in (0, 1):
        weight, norm = node.inputs[at], _norm(node.inputs[1 - at])
        if norm is not None and weight is not None and constant(origin(weight)) is not None:
            return Norm(*norm, origin(weight))
    return None


def _norm(value: ir.Value | None) -> tuple[ir.Value, float] | None:
    """x and epsilon of  d / sqrt(mean(d^2) + epsilon)  or  d * (1 / sqrt(...))."""
    node = made_by(value, "Mul", "Div")
    if node is None:
        return None
    for at in (0, 1) if node.op_type == "Mul" else (0,):
        x, root = _centred(node.inputs[at]), node.inputs[1 - at]
        epsilon = _deviation(inverse_of(root) if node.op_type == "Mul" else root, x)
        if x is not None and epsilon is not None:
            return x, epsilon
    return None


def _deviation(value: ir.Value | None, x: ir.Value | None) -> float | None:
    """epsilon, where the value is the root of epsilon plus the mean of this very x's squares about its mean."""
    found = mean_under_root(value)
    if found is None or x is None or not over_last_axis(found[0]):
        return None
    return found[1] if _centred(squared(found[0].inputs[0])) is x else None


def _why_not(node: ir.Node) -> str:
    for at in (0, 1) if node.op_type == "Mul" else (0,):
        x, root = _centred(node.inputs[at]), node.inputs[1 - at]
        found = mean_under_root(inverse_of(root) if node.op_type == "Mul" else root)
        if x is None or found is None:
            continue
        if not over_last_axis(found[0]):
            return f"'{found[0].outputs[0].name}' is not a mean over the last axis alone, or drops it"
        if _centred(squared(found[0].inputs[0])) is not x:
            return f"'{found[0].outputs[0].name}' is not the variance of '{x.name}'"
        if not any(_weighted(reader) for reader in node.outputs[0].consumers()):
            return "no constant weight follows it"
    return ""


def _centred(value: ir.Value | None) -> ir.Value | None:
    """x of  x - mean(x)."""
    difference = made_by(value, "Sub")
    mean = made_by(difference.inputs[1], "ReduceMean") if difference is not None else None
    if difference is None or mean is None or difference.inputs[0] is None or not over_last_axis(mean):
        return None
    x = origin(difference.inputs[0])
    return x if mean.inputs[0] is not None and origin(mean.inputs[0]) is x else None
