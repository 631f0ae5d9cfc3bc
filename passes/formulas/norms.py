"""Pieces of the formulas of norms: squares, inverses, means over the last axis."""

from __future__ import annotations

import onnx_ir as ir

from passes.formulas.matching import by_scalar, integers, made_by, scalar


def inverse_of(value: ir.Value | None) -> ir.Value | None:
    """What one is divided by."""
    reciprocal = made_by(value, "Reciprocal")
    if reciprocal is not None:
        return reciprocal.inputs[0]
    division = made_by(value, "Div")
    return division.inputs[1] if division is not None and scalar(division.inputs[0]) == 1.0 else None


def mean_under_root(value: ir.Value | None) -> tuple[ir.Node, float] | None:
    """The mean and epsilon of  sqrt(mean + epsilon)."""
    root = made_by(value, "Sqrt")
    moved = by_scalar(made_by(root.inputs[0], "Add")) if root is not None else None
    mean = made_by(moved[0], "ReduceMean") if moved is not None else None
    return (mean, moved[1]) if mean is not None and moved is not None else None


def squared(value: ir.Value | None) -> ir.Value | None:
    """What is multiplied by itself."""
    power = made_by(value, "Pow")
    if power is not None:
        return power.inputs[0] if scalar(power.inputs[1]) == 2.0 else None
    product = made_by(value, "Mul")
    return product.inputs[0] if product is not None and product.inputs[0] is product.inputs[1] else None


def over_last_axis(mean: ir.Node) -> bool:
    """Axes are an input since opset 18 and an attribute before."""
    if "axes" in mean.attributes:
        axes: tuple[int, ...] | None = tuple(mean.attributes["axes"].as_ints())
    else:
        axes = integers(mean.inputs[1]) if len(mean.inputs) > 1 else None
    source = mean.inputs[0]
    last = len(source.shape) - 1 if source is not None and source.shape is not None else -1
    return mean.attributes.get_int("keepdims", 1) == 1 and axes in {(-1,), (last,)}
