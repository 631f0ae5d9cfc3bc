"""Between heads apart and heads joined: the attention operators of ONNX Runtime read and write them joined.

    apart    [batch, heads, sequence, size]        what graphs compute with
    joined   [batch, sequence, heads * size]       what projections make and take

Where the graph itself joins or splits them, the nodes that do so fall away.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from passes.attention import HEADS_FIRST, Attention, Heads
from passes.building import Builder
from passes.matching import made_by, origin, permutation, same, sizes


def known(value: ir.Value) -> Heads:
    """The heads of a value that states them."""
    heads = Heads.of(value)
    assert heads is not None  # callers have asked Heads.of
    return heads


def joined(value: ir.Value, build: Builder) -> ir.Value:
    """[batch, heads, sequence, size] -> [batch, sequence, heads * size], undoing what split it where that is seen."""
    value, heads = origin(value), known(value)
    rotary = made_by(value, "RotaryEmbedding")
    if rotary is not None and Heads.of(rotary.inputs[0]) == heads:
        inner = joined(_given(rotary.inputs[0]), build)
        attributes = {**rotary.attributes, "num_heads": heads.count}
        return build.one("RotaryEmbedding", [inner, *rotary.inputs[1:]], attributes)
    transpose = made_by(value, "Transpose")
    if transpose is not None and permutation(transpose) == HEADS_FIRST:
        split = origin(_given(transpose.inputs[0]))
    else:
        split = build.one("Transpose", [value], {"perm": HEADS_FIRST})
    reshape = made_by(split, "Reshape")
    if reshape is not None and _is_merged(reshape.inputs[0], value):
        return origin(_given(reshape.inputs[0]))
    return build.one("Reshape", [split, build.integers([0, 0, heads.width])])


def _given(value: ir.Value | None) -> ir.Value:
    assert value is not None, "the standard gives these operators a first input"
    return value


def added(found: Attention, masks: Sequence[ir.Value], build: Builder) -> ir.Value | None:
    """Masks as numbers to add: their sum, made once for all layers that add the same."""
    total: ir.Value | None = None
    for mask in masks:
        numbers = mask
        if mask.dtype == ir.DataType.BOOL:
            dtype = found.q.dtype or ir.DataType.FLOAT
            seen, unseen = build.number(0.0, dtype), build.number(dtype.min, dtype)
            numbers = build.shared("Where", [mask, seen, unseen])
        total = numbers if total is None else build.shared("Add", [total, numbers])
    return total


def hand_over(found: Attention, y: ir.Value, build: Builder) -> None:
    """Readers of [batch, heads, sequence, size] get y, which is [batch, sequence, heads * size]."""
    heads = known(found.q)
    merged = _merged(found)
    if merged is not None:
        build.hand_over(merged, y)
        return
    split = build.one("Reshape", [y, build.integers([0, 0, heads.count, heads.size])])
    build.hand_over(found.out, build.one("Transpose", [split], {"perm": HEADS_FIRST}))


def _merged(found: Attention) -> ir.Value | None:
    """The [batch, sequence, heads * size] that the only readers of the heads make of them."""
    value, turned = found.out, False
    while not value.is_graph_output() and len(readers := value.consumers()) == 1:
        before, (node,) = value, readers
        value = node.outputs[0]
        if node.op_type == "Transpose" and permutation(node) == HEADS_FIRST and not turned:
            turned = True
        elif turned and node.op_type == "Reshape" and _is_merged(value, found.q):
            return value
        elif node.op_type != "Identity" and not (node.op_type == "Reshape" and _keeps_shape(before, value)):
            return None
    return None


def _is_merged(value: ir.Value | None, heads: ir.Value) -> bool:
    """Whether a value is [batch, sequence, heads * size] of [batch, heads, sequence, size]."""
    whole, apart = sizes(value, 3), sizes(heads, 4)
    return whole is not None and apart is not None and same(whole, (apart[0], apart[2], known(heads).width))


def _keeps_shape(before: ir.Value, after: ir.Value) -> bool:
    was, became = sizes(before, 4), sizes(after, 4)
    return was is not None and became is not None and same(was, became)
