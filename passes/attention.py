"""Attention as graphs write it, read into one form.

    softmax(softcap(scale q k^T) + mask) v          q [batch, heads, sequence, size]; k, v [batch, heads, total, size]

eager      MatMul, Mul or Div, (Div, Tanh, Mul), Add, Softmax, MatMul, with casts around the softmax
standard   the operator Attention of opset 23, without a cache of its own

Keys and values of grouped queries are found behind their repetition: Unsqueeze, Expand, Reshape.
Vaswani et al. 2017 (arXiv 1706.03762); Ainslie et al. 2023 (arXiv 2305.13245) for the groups.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import onnx_ir as ir

from passes.matching import by_scalar, made_by, normalized_axis, origin, permutation, scalar, sizes, uncast

SWAP_LAST = (0, 1, 3, 2)
HEADS_FIRST = (0, 2, 1, 3)  # [batch, sequence, heads, size] <-> [batch, heads, sequence, size]


@dataclass(frozen=True)
class Heads:
    """What is known before it runs of [batch, heads, sequence, size]."""

    count: int
    size: int

    @property
    def width(self) -> int:
        """Of [batch, sequence, heads * size]."""
        return self.count * self.size

    @classmethod
    def of(cls, value: ir.Value | None) -> Heads | None:
        shape = sizes(value, 4)
        if shape is None or not isinstance(shape[1], int) or not isinstance(shape[3], int):
            return None
        return cls(shape[1], shape[3])


@dataclass(frozen=True)
class Attention:
    """One attention of a graph; all values of rank 4, heads on axis 1."""

    node: ir.Node  # the last of the nodes that it is written as
    q: ir.Value
    k: ir.Value
    v: ir.Value
    masks: tuple[ir.Value, ...]  # added to the scores; or one of bool: True is seen
    scale: float
    softcap: float  # 0: none

    @property
    def out(self) -> ir.Value:
        return self.node.outputs[0]


def find(node: ir.Node) -> Attention | None:
    """The attention that ends in this node."""
    if node.domain == "" and node.op_type == "Attention":
        return _standard(node)
    if node.domain == "" and node.op_type == "MatMul":
        return _eager(node)
    return None


def unrepeated(value: ir.Value) -> ir.Value:
    """Keys or values before each head was repeated for the queries of its group: [batch, groups, total, size].

    Unsqueeze(x, 2) -> Expand -> Reshape repeats head by head, which is what grouped queries mean.
    """
    reshape = made_by(value, "Reshape")
    expand = made_by(reshape.inputs[0], "Expand") if reshape else None
    unsqueeze = made_by(expand.inputs[0], "Unsqueeze") if expand else None
    if reshape is None or expand is None or unsqueeze is None or unsqueeze.inputs[0] is None:
        return origin(value)
    inner = origin(unsqueeze.inputs[0])
    before, spread, after = Heads.of(inner), sizes(expand.outputs[0], 5), Heads.of(reshape.outputs[0])
    if before is None or spread is None or after is None or _axis_of(unsqueeze) != 2:
        return origin(value)
    times = after.count // before.count
    repeats = spread[1:3] == (before.count, times) and after == Heads(before.count * times, before.size)
    return inner if repeats and spread[4] == before.size else origin(value)


def _axis_of(unsqueeze: ir.Node) -> int | None:
    axis = scalar(unsqueeze.inputs[1]) if len(unsqueeze.inputs) > 1 else None
    return None if axis is None else normalized_axis(int(axis), 5)


def _standard(node: ir.Node) -> Attention | None:
    inputs = [*node.inputs, None, None, None][:6]
    q, k, v, mask, *cache = inputs
    attributes = node.attributes
    plain = not any(cache) and len(node.outputs) == 1 and attributes.get_int("is_causal", 0) == 0
    if not plain or q is None or k is None or v is None:
        return None
    heads = Heads.of(q)
    if heads is None:
        return None
    scale = attributes.get_float("scale", 1 / math.sqrt(heads.size))
    masks = () if mask is None else (mask,)
    return Attention(node, q, unrepeated(k), unrepeated(v), masks, scale, attributes.get_float("softcap", 0.0))


def _eager(node: ir.Node) -> Attention | None:
    softmax = _softmax(node.inputs[0])
    if softmax is None or node.inputs[1] is None or softmax.inputs[0] is None:
        return None
    scores, masks = _split_masks(uncast(softmax.inputs[0]))
    scores, softcap = _split_softcap(scores)
    scores, scale = _split_scale(scores)
    product = made_by(scores, "MatMul")
    if product is None or product.inputs[0] is None:
        return None
    q, scale_q = _split_scale(product.inputs[0])
    k, scale_k = _split_keys(product.inputs[1])
    if k is None or sizes(q, 4) is None or sizes(k, 4) is None:
        return None
    return Attention(node, q, unrepeated(k), unrepeated(node.inputs[1]), masks, scale * scale_q * scale_k, softcap)


def _softmax(value: ir.Value | None) -> ir.Node | None:
    """Over the last of four axes; casts around it only change where it is rounded."""
    node = made_by(uncast(value), "Softmax") if value is not None else None
    if node is None:
        return None
    return node if node.attributes.get_int("axis", -1) in {-1, 3} else None


def _split_masks(value: ir.Value) -> tuple[ir.Value, tuple[ir.Value, ...]]:
    """scores + mask (+ mask ...), where one side of each sum leads to a product of matrices and the other does not."""
    node = made_by(value, "Add")
    if node is None:
        return value, ()
    for at in (0, 1):
        scores, mask = node.inputs[at], node.inputs[1 - at]
        if scores is None or mask is None:
            continue
        inner, masks = _split_masks(uncast(scores))
        if masks or _leads_to_product(inner):
            return inner, (*masks, mask)
    return value, ()


def _leads_to_product(value: ir.Value) -> bool:
    inner, _ = _split_softcap(value)
    return made_by(_split_scale(inner)[0], "MatMul") is not None


def _split_softcap(value: ir.Value) -> tuple[ir.Value, float]:
    """c tanh(x / c), as Gemma 2 has it: arXiv 2408.00118, section 2."""
    outer = by_scalar(made_by(value, "Mul"))
    tanh = made_by(outer[0], "Tanh") if outer else None
    if outer is None or tanh is None or tanh.inputs[0] is None:
        return value, 0.0
    inner, factor = _split_scale(tanh.inputs[0])
    return (inner, outer[1]) if math.isclose(factor * outer[1], 1.0, rel_tol=1e-6) else (value, 0.0)


def _split_scale(value: ir.Value) -> tuple[ir.Value, float]:
    """x * c or x / c -> x and the factor."""
    node = made_by(value, "Mul", "Div")
    split = by_scalar(node)
    if node is None or split is None:
        return origin(value), 1.0
    inner, number = split
    if node.op_type == "Div":
        if inner is not node.inputs[0] or number == 0.0:  # c / x is no scaling
            return origin(value), 1.0
        number = 1 / number
    return origin(inner), number


def _split_keys(value: ir.Value | None) -> tuple[ir.Value | None, float]:
    """k behind k^T, and what either was multiplied with."""
    if value is None:
        return None, 1.0
    turned, outer = _split_scale(value)
    transpose = made_by(turned, "Transpose")
    if transpose is None or transpose.inputs[0] is None or permutation(transpose) != SWAP_LAST:
        return None, 1.0
    inner, scale = _split_scale(transpose.inputs[0])
    return inner, outer * scale
