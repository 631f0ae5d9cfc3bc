"""Reading a graph backwards: who made a value, once everything that only copies it is overlooked.

    origin(value)          through Identity, a Cast to the type it had, and a Slice of everything
    made_by(value, "Mul")  the node behind the origin, where it is of that kind
    scalar(value)          the one number a constant holds

A fusion that matches with these reads like the formula that it replaces.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from passes.editing.constants import constant

WHOLE = np.iinfo(np.int32).max  # exporters write "to the end" as the largest int32 or int64


def origin(value: ir.Value) -> ir.Value:
    """The first value of which `value` is a mere copy."""
    while (node := value.producer()) is not None and _copies(node):
        assert node.inputs[0] is not None  # held by _copies
        value = node.inputs[0]
    return value


def made_by(value: ir.Value | None, *op_types: str) -> ir.Node | None:
    """The standard operator that made the value, where it is one of these."""
    if value is None:
        return None
    node = origin(value).producer()
    return node if node is not None and node.domain == "" and node.op_type in op_types else None


def uncast(value: ir.Value) -> ir.Value:
    """Also through casts that change the type: for what a formula computes at a precision of its own."""
    while (node := made_by(value, "Cast")) is not None and node.inputs[0] is not None:
        value = node.inputs[0]
    return origin(value)


def scalar(value: ir.Value | None) -> float | None:
    """The number that a constant of one element holds."""
    tensor = constant(origin(value)) if value is not None else None
    if tensor is None or tensor.size != 1 or tensor.dtype == ir.DataType.STRING:
        return None
    return float(tensor.numpy().reshape(()))


def integers(value: ir.Value | None) -> tuple[int, ...] | None:
    """The whole numbers that a constant vector holds."""
    tensor = constant(origin(value)) if value is not None else None
    if tensor is None or tensor.dtype not in {ir.DataType.INT64, ir.DataType.INT32}:
        return None
    return tuple(int(one) for one in tensor.numpy().reshape(-1))


def by_scalar(node: ir.Node | None) -> tuple[ir.Value, float] | None:
    """A product or sum with one number, in either order: the other operand and the number."""
    if node is None:
        return None
    for at in (1, 0):
        number, other = scalar(node.inputs[at]), node.inputs[1 - at]
        if number is not None and other is not None:
            return other, number
    return None


def permutation(node: ir.Node) -> tuple[int, ...] | None:
    """The order of axes of a Transpose, where it is written."""
    perm = node.attributes.get("perm")
    return tuple(perm.as_ints()) if perm is not None else None


Axes = tuple[int | ir.SymbolicDim, ...]


def sizes(value: ir.Value | None, rank: int) -> Axes | None:
    """The axes of a value of that rank; None where its rank is unknown or another."""
    if value is None or value.shape is None or len(value.shape) != rank:
        return None
    return tuple(value.shape.dims)


def same(x: Axes, y: Axes) -> bool:
    """Equal numbers or names of axes; an axis without a name is equal to none."""
    return x == y and all(isinstance(one, int) or one.value is not None for one in x)


def normalized_axis(axis: int, rank: int) -> int:
    return axis + rank if axis < 0 else axis


def _copies(node: ir.Node) -> bool:
    if node.domain or not node.inputs or node.inputs[0] is None:
        return False
    if node.op_type == "Cast":
        return node.inputs[0].dtype is not None and node.attributes["to"].as_int() == node.inputs[0].dtype
    return node.op_type == "Identity" or (node.op_type == "Slice" and _takes_everything(node))


def _takes_everything(node: ir.Node) -> bool:
    """Slice(x, 0, end of everything) with steps of 1; before opset 10 the bounds are attributes and not looked at."""
    if len(node.inputs) < 3:
        return False
    starts, ends = integers(node.inputs[1]), integers(node.inputs[2])
    steps = integers(node.inputs[4]) if len(node.inputs) > 4 else (1,)
    if not starts or not ends or not steps:
        return False
    return not any(starts) and min(ends) >= WHOLE and set(steps) == {1}
