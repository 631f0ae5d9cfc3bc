"""Between heads apart and heads joined: the attention operators of ONNX Runtime read and write them joined.

    apart    [batch, heads, sequence, size]        what graphs compute with
    joined   [batch, sequence, heads * size]       what projections make and take

Where the graph itself joins or splits them, the nodes that do so fall away.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx_ir as ir

from passes.editing.building import Builder
from passes.editing.replacing import hand_over
from passes.formulas.attention import HEADS_FIRST, Attention, Heads
from passes.formulas.masks import hides_nothing
from passes.formulas.matching import Axes, made_by, origin, permutation, same, sizes


def known(value: ir.Value) -> Heads:
    """The heads of a value that states them."""
    heads = Heads.of(value)
    assert heads is not None  # callers have asked Heads.of
    return heads


def keys(found: Attention, build: Builder) -> ir.Value:
    """[batch, heads, total, size], also where the graph never has them so."""
    if not found.turned:
        return found.k
    batch, total, heads, size = _given_sizes(found.k)
    apart = build.one("Transpose", [found.k], {"perm": HEADS_FIRST})
    apart.shape, apart.type = ir.Shape([batch, heads, total, size]), found.k.type
    return apart


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
    if reshape is not None and _is_merged(reshape.inputs[0], value, heads.width):
        return origin(_given(reshape.inputs[0]))
    return build.one("Reshape", [split, build.integers([0, 0, heads.width])])


def _given(value: ir.Value | None) -> ir.Value:
    assert value is not None, "the standard gives these operators a first input"
    return value


def _given_sizes(value: ir.Value) -> Axes:
    found = sizes(value, 4)
    assert found is not None, "held by attention.find"
    return found


def added(found: Attention, masks: Sequence[ir.Value], build: Builder) -> ir.Value | None:
    """Masks as numbers to add, of the type of the queries: their sum, made once for all layers that add the same.

    What a mask of bool hides is lowered by half of what the type holds, so that two of them are no infinity.
    """
    dtype, total = found.q.dtype or ir.DataType.FLOAT, None
    for mask in masks:
        numbers = mask
        if mask.dtype == ir.DataType.BOOL:
            low = found.low if math.isinf(found.low) else dtype.min / 2
            choices = [build.number(0.0, dtype), build.number(low, dtype)]
            numbers = build.shared("Where", [mask, *(choices[::-1] if mask in found.hidden else choices)])
        elif mask.dtype != dtype:  # softmax and mask of a half type in float32
            numbers = build.shared("Cast", [mask], {"to": dtype})
        total = numbers if total is None else build.shared("Add", [total, numbers])
    return total


def hiding(found: Attention) -> list[ir.Value]:
    """The masks that hide something."""
    return [*(mask for mask in found.masks if not hides_nothing(mask)), *found.hidden]


def spread(
    total: ir.Value | None, found: Attention, masks: Sequence[ir.Value], build: Builder, q: ir.Value, axis: int
) -> ir.Value | None:
    """A sum of masks for each query: the operators repeat it over batch and heads alone. q has its sequence at `axis`.

    What is not seen to have a row for each query is spread; where it had, that changes nothing.
    """
    queries = (sizes(found.q, 4) or (None,) * 4)[2]
    rows = [mask.shape[-2] for mask in masks if mask.shape is not None and len(mask.shape) > 1]
    if total is None or any(queries is not None and same((one,), (queries,)) for one in rows):
        return total
    one = build.integers([1])
    shape = build.shared("Concat", [one, one, build.length(q, axis), one], {"axis": 0})
    return build.shared("Expand", [total, shape])


def is_split(value: ir.Value) -> bool:
    """Whether the graph itself split the heads off [batch, sequence, heads * size], before a rotation or not."""
    node = made_by(value, "Transpose", "RotaryEmbedding")
    if node is not None and node.op_type == "RotaryEmbedding":
        return is_split(_given(node.inputs[0]))
    return node is not None and permutation(node) == HEADS_FIRST


def keys_are_split(found: Attention) -> bool:
    return found.turned or is_split(found.k)


def deliver(found: Attention, y: ir.Value, build: Builder) -> None:
    """Readers of [batch, heads, sequence, size] get y, which is [batch, sequence, heads * size]."""
    heads = Heads(known(found.q).count, known(found.v).size)
    merged = _merged(found, heads)
    if merged is not None:
        hand_over(merged, y, build.names)
        return
    split = build.one("Reshape", [y, build.integers([0, 0, heads.count, heads.size])])
    hand_over(found.out, build.one("Transpose", [split], {"perm": HEADS_FIRST}), build.names)


def _merged(found: Attention, heads: Heads) -> ir.Value | None:
    """The [batch, sequence, heads * size] that the only readers of the heads make of them."""
    value, turned = found.out, False
    while not value.is_graph_output() and len(readers := value.consumers()) == 1:
        before, (node,) = value, readers
        value = node.outputs[0]
        if node.op_type == "Transpose" and permutation(node) == HEADS_FIRST and not turned:
            turned = True
        elif turned and node.op_type == "Reshape" and _is_merged(value, found.q, heads.width):
            return value
        elif node.op_type != "Identity" and not (node.op_type == "Reshape" and _keeps_shape(before, value)):
            return None
    return None


def _is_merged(value: ir.Value | None, heads: ir.Value, width: int) -> bool:
    """Whether a value is [batch, sequence, width] beside [batch, heads, sequence, size]."""
    whole, apart = sizes(value, 3), sizes(heads, 4)
    return whole is not None and apart is not None and same(whole, (apart[0], apart[2], width))


def _keeps_shape(before: ir.Value, after: ir.Value) -> bool:
    was, became = sizes(before, 4), sizes(after, 4)
    return was is not None and became is not None and same(was, became)
