"""What a mask hides, seen in how it is computed and not tried on numbers.

    is_causal         the future:  position of the key <= past length + position of the query, and whatever else
    hides_nothing     position >= 0, which is how exporters write that there is no mask

A mask that hides more than the future (padding, a sliding window) is causal too. What is not seen is not so.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from passes.editing.constants import constant
from passes.formulas.matching import by_scalar, integers, made_by, origin, scalar, sizes

# What changes the shape of a mask and not its meaning.
_RESHAPING = ("Expand", "Unsqueeze", "Reshape", "Cast", "Transpose")


def is_causal(mask: ir.Value) -> bool:
    """Whether no query is let to see a key behind it; of bool masks True is seen, numbers are added to the scores."""
    node = made_by(mask, "And", "Add", "Where", "Expand", "Cast", "LessOrEqual", "GreaterOrEqual")
    if node is None:
        return False
    inputs = [value for value in node.inputs if value is not None]
    match node.op_type:
        case "And" | "Add":
            return any(map(is_causal, inputs))
        case "Where":
            return (scalar(inputs[1]) or 0.0) == 0.0 and is_low(inputs[2]) and is_causal(inputs[0])
        case "Expand" | "Cast":
            return is_causal(inputs[0])
        case "LessOrEqual":
            return _is_key(inputs[0]) and _is_query(inputs[1])
        case _:
            return _is_query(inputs[0]) and _is_key(inputs[1])


def hides_nothing(mask: ir.Value) -> bool:
    """Whether every query sees every key: a sum with 0, or a choice that is always the same."""
    node = made_by(mask, "Where", "Expand", "Cast", "And", "GreaterOrEqual")
    if node is None:
        return _is_true(mask) or (scalar(mask) == 0.0 and mask.dtype != ir.DataType.BOOL)
    inputs = [value for value in node.inputs if value is not None]
    match node.op_type:
        case "Where":
            return hides_nothing(inputs[0]) and scalar(inputs[1]) == 0.0
        case "And":
            return all(map(hides_nothing, inputs))
        case "GreaterOrEqual":
            lowest = scalar(inputs[1])
            return lowest is not None and lowest <= 0 and _counts_from_zero(inputs[0])
        case _:
            return hides_nothing(inputs[0])


def _is_true(value: ir.Value) -> bool:
    tensor = constant(origin(value))
    return tensor is not None and tensor.dtype == ir.DataType.BOOL and bool(tensor.numpy().all())


def is_low(value: ir.Value | None) -> bool:
    """Low enough that nothing of a hidden key is left after the softmax: exp of it is 0 in every type."""
    number = scalar(value)
    return number is not None and number <= -1e4


def hides_with_infinity(mask: ir.Value) -> bool:
    """Whether minus infinity is seen in it, where a row may hold nothing else: the softmax of such a row is NaN."""
    tensor = constant(origin(mask))
    if tensor is not None:
        return tensor.dtype.is_floating_point() and bool(np.isneginf(tensor.numpy()).all(axis=-1).any())
    node = made_by(_unshaped(mask), "Where")
    return node is not None and any(scalar(value) == -np.inf for value in node.inputs[1:])


def stays_above(mask: ir.Value, lowest: float) -> bool:
    """Whether it is a choice of two numbers that are both above that."""
    node = made_by(mask, "Where")
    numbers = [scalar(value) for value in node.inputs[1:]] if node is not None else [None]
    return all(number is not None and number > lowest for number in numbers)


def _is_key(value: ir.Value) -> bool:
    """0, 1, 2, ... along the last axis."""
    shape = sizes(value, 4)
    return shape is not None and shape[2] == 1 and _counts_from_zero(value)


def _is_query(value: ir.Value) -> bool:
    """past, past + 1, ... along the axis before the last."""
    shape = sizes(value, 4)
    moved = made_by(_unshaped(value), "Add")
    if shape is None or shape[3] != 1 or moved is None:
        return False
    left, right = moved.inputs
    return any(
        count is not None and offset is not None and _counts_from_zero(count) and _is_past_length(offset)
        for count, offset in ((left, right), (right, left))
    )


def _counts_from_zero(value: ir.Value) -> bool:
    node = made_by(_unshaped(value), "Range", "Add")
    if node is not None and node.op_type == "Add":  # Range + 0
        moved = by_scalar(node)
        return moved is not None and moved[1] == 0.0 and _counts_from_zero(moved[0])
    return node is not None and _number(node.inputs[0]) == 0.0 and _number(node.inputs[2]) == 1.0


def _number(value: ir.Value | None) -> float | None:
    """A constant scalar, also behind the CastLike that exporters give the bounds of a Range."""
    like = made_by(value, "CastLike")
    return scalar(like.inputs[0] if like is not None else value)


def _is_past_length(value: ir.Value) -> bool:
    """Axis 2 of a cache [batch, heads, past, size]."""
    source = _unshaped(value)
    gather = made_by(source, "Gather")
    shape = made_by(gather.inputs[0] if gather else source, "Shape")
    if shape is None or sizes(shape.inputs[0], 4) is None:
        return False
    if gather is not None:
        return integers(gather.inputs[1]) == (2,) and not {"start", "end"} & set(shape.attributes)
    return (shape.attributes.get_int("start", 0), shape.attributes.get_int("end", 4)) == (2, 3)


def _unshaped(value: ir.Value) -> ir.Value:
    value = origin(value)
    while (node := made_by(value, "Squeeze", *_RESHAPING)) is not None and node.inputs[0] is not None:
        value = origin(node.inputs[0])
    return value
