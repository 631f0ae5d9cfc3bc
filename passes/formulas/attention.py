"""Attention as graphs write it, read into one form.

    softmax(softcap(scale q k^T) + mask) v          q [batch, heads, sequence, size]; k, v [batch, heads, total, size]

eager      MatMul, Mul or Div, (Div, Tanh, Mul), Add or Where, Softmax, MatMul, with casts around the softmax
standard   the operator Attention of opset 23, without a cache of its own

Keys and values of grouped queries are found behind their repetition: Unsqueeze, Expand, Reshape. Keys may be turned in
one step, from [batch, total, heads, size] to k^T, as exporters do that merge transposes. A Where that puts a low number
in place of some scores hides what a mask that adds it would hide: either way nothing is left of them.
Vaswani et al. 2017 (arXiv 1706.03762); Ainslie et al. 2023 (arXiv 2305.13245) for the groups.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from passes.formulas.masks import is_low
from passes.formulas.matching import by_scalar, made_by, normalized_axis, origin, permutation, scalar, sizes, uncast

SWAP_LAST = (0, 1, 3, 2)
HEADS_FIRST = (0, 2, 1, 3)  # [batch, sequence, heads, size] <-> [batch, heads, sequence, size]
BOTH = (0, 2, 3, 1)  # one after the other
LOWEST = -float(np.finfo(np.float32).max)
READ = frozenset({"scale", "softcap", "is_causal", "softmax_precision", "qk_matmul_output_mode"})


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
    masks: tuple[ir.Value, ...]  # added to the scores; or of bool: True is seen
    scale: float
    softcap: float  # 0: none
    hidden: tuple[ir.Value, ...] = ()  # more masks, of bool: True is not seen
    low: float = LOWEST  # what stands in place of scores that masks of bool hide: minus infinity, or a number
    turned: bool = False  # k is [batch, total, heads, size]
    precision: ir.DataType | None = None  # of the softmax

    @property
    def out(self) -> ir.Value:
        return self.node.outputs[0]

    @property
    def key_heads(self) -> Heads | None:
        shape = sizes(self.k, 4)
        count, size = (None, None) if shape is None else (shape[2 if self.turned else 1], shape[3])
        return Heads(count, size) if isinstance(count, int) and isinstance(size, int) else None

    @property
    def every_mask(self) -> tuple[ir.Value, ...]:
        return (*self.masks, *self.hidden)


def find(node: ir.Node) -> Attention | None:
    """The attention that ends in this node."""
    if node.domain == "" and node.op_type == "Attention":
        return _standard(node)
    if node.domain == "" and node.op_type == "MatMul":
        return _eager(node)
    return None


def near(node: ir.Node) -> str:
    """Which value keeps a product with the Softmax of a product from being attention; empty where it is none."""
    softmax = made_by(uncast(node.inputs[0]), "Softmax") if _is_product(node) and node.inputs[0] is not None else None
    if softmax is None or softmax.inputs[0] is None:
        return ""
    scores, _ = _split_masks(uncast(softmax.inputs[0]))
    scores, _ = _split_scale(_split_softcap(scores)[0])
    product = made_by(scores, "MatMul")
    if product is None or product.inputs[0] is None:
        return ""
    q, _ = _split_scale(product.inputs[0])
    if sizes(q, 4) is None:
        return f"'{q.name}' is not known to be [batch, heads, sequence, size]"
    if _softmax(node.inputs[0]) is None:
        return f"its Softmax goes over axis {softmax.attributes.get_int('axis', -1)} and not over the last of four"
    keys = _split_keys(product.inputs[1])
    if keys is None or sizes(keys.value, 4) is None:
        return f"'{product.inputs[1].name if product.inputs[1] else ''}' is not seen to be keys of four axes, turned"
    return ""


def _is_product(node: ir.Node) -> bool:
    return (node.domain, node.op_type) == ("", "MatMul")


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
    inputs: list[ir.Value | None] = [*node.inputs, None]
    q, k, v, mask, *more = inputs
    attributes = node.attributes
    plain = not any(more) and len(node.outputs) == 1 and attributes.get_int("is_causal", 0) == 0
    if not plain or not attributes.keys() <= READ or q is None or k is None or v is None:
        return None
    heads = Heads.of(q)
    if heads is None:
        return None
    scale = attributes.get_float("scale", 1 / math.sqrt(heads.size))
    precision = attributes.get_int("softmax_precision", 0)
    return Attention(
        node,
        q,
        unrepeated(k),
        unrepeated(v),
        () if mask is None else (mask,),
        scale,
        attributes.get_float("softcap", 0.0),
        precision=ir.DataType(precision) if precision else None,
    )


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
    keys = _split_keys(product.inputs[1])
    if keys is None or sizes(q, 4) is None or sizes(keys.value, 4) is None:
        return None
    return Attention(
        node,
        q,
        keys.value if keys.turned else unrepeated(keys.value),
        unrepeated(node.inputs[1]),
        masks.seen,
        scale * scale_q * keys.scale,
        softcap,
        masks.hidden,
        masks.low,
        keys.turned,
        softmax.inputs[0].dtype,
    )


def _softmax(value: ir.Value | None) -> ir.Node | None:
    """Over the last of four axes; casts around it only change where it is rounded."""
    node = made_by(uncast(value), "Softmax") if value is not None else None
    if node is None:
        return None
    return node if node.attributes.get_int("axis", -1) in {-1, 3} else None


class _Masks(NamedTuple):
    """As in Attention: of those that are seen, and of those that are hidden."""

    seen: tuple[ir.Value, ...] = ()
    hidden: tuple[ir.Value, ...] = ()
    low: float = LOWEST


def _split_masks(value: ir.Value) -> tuple[ir.Value, _Masks]:
    """scores + mask (+ mask ...), where one side of each sum leads to a product of matrices and the other does not.

    Where(seen, scores, low) and Where(hidden, low, scores) too.
    """
    node = made_by(value, "Add", "Where")
    if node is None:
        return value, _Masks()
    for scores, mask in _sums(node) if node.op_type == "Add" else _choices(node):
        inner, masks = _split_masks(uncast(scores))
        if masks != _Masks() or _leads_to_product(inner):
            low = min(masks.low, mask.low)
            return inner, _Masks((*masks.seen, *mask.seen), (*masks.hidden, *mask.hidden), low)
    return value, _Masks()


def _sums(node: ir.Node) -> Iterator[tuple[ir.Value, _Masks]]:
    """What may be scores, and what is then added to them."""
    for at in (0, 1):
        scores, mask = node.inputs[at], node.inputs[1 - at]
        if scores is not None and mask is not None:
            yield scores, _Masks((mask,))


def _choices(node: ir.Node) -> Iterator[tuple[ir.Value, _Masks]]:
    """What may be scores, and what then chooses between them and a low number."""
    mask, first, second = node.inputs
    if mask is not None and first is not None and is_low(second):
        yield first, _Masks((_narrowest(mask),), low=scalar(second) or LOWEST)
    if mask is not None and second is not None and is_low(first):
        yield second, _Masks((), (_narrowest(mask),), scalar(first) or LOWEST)


def _narrowest(mask: ir.Value) -> ir.Value:
    """Before it was repeated to the shape of the scores, which would be computed for that alone."""
    mask = origin(mask)
    while (expand := made_by(mask, "Expand")) is not None and expand.inputs[0] is not None:
        if expand.inputs[0].shape is None:
            break
        mask = origin(expand.inputs[0])
    return mask


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


class _Keys(NamedTuple):
    """k behind k^T, and what either was multiplied with; `turned` as in Attention."""

    value: ir.Value
    scale: float
    turned: bool


def _split_keys(value: ir.Value | None) -> _Keys | None:
    turned, outer = _split_scale(value) if value is not None else (None, 1.0)
    transpose = made_by(turned, "Transpose")
    if transpose is None or transpose.inputs[0] is None or permutation(transpose) not in (SWAP_LAST, BOTH):
        return None
    inner, scale = _split_scale(transpose.inputs[0])
    return _Keys(inner, outer * scale, permutation(transpose) == BOTH)
