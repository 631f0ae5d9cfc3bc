"""Rotating pairs of channels by their position is RotaryEmbedding.

    y = x cos + concat(-x2, x1) sin           x = concat(x1, x2), cos and sin [batch, sequence, size], equal in halves
 -> y = RotaryEmbedding(x, cos', sin')     cos', sin' [batch, sequence, size / 2], computed once for all layers

Su et al. 2021 (arXiv 2104.09864), in the form of two halves that Llama uses; the operator is of opset 23.
"""

from __future__ import annotations

from typing import NamedTuple

import onnx_ir as ir

from passes.editing.building import Builder
from passes.editing.replacing import hand_over
from passes.formulas.matching import by_scalar, integers, made_by, normalized_axis, origin, scalar, sizes
from passes.fusion import Fusion
from passes.local import require


class Rotation(NamedTuple):
    """x and the tables it is turned by."""

    x: ir.Value
    cos: ir.Value
    sin: ir.Value


class RotaryEmbeddingFusion(Fusion[Rotation]):
    """Turn each rotation of [batch, heads, sequence, size] into one RotaryEmbedding."""

    operator, first_opset = "RotaryEmbedding", 23

    def find(self, node: ir.Node) -> Rotation | None:
        return _rotation(node) if (node.domain, node.op_type) == ("", "Add") else None

    def near(self, node: ir.Node) -> str:
        return _why_not(node) if (node.domain, node.op_type) == ("", "Add") else ""

    def fuse(self, node: ir.Node, found: Rotation, build: Builder) -> None:
        tables = [_halved(table, build) for table in (found.cos, found.sin)]
        require(None not in tables, "its angles are not seen to be the same for both halves")
        hand_over(node.outputs[0], build.one("RotaryEmbedding", [found.x, *tables]), build.names)


def _rotation(node: ir.Node) -> Rotation | None:
    """x, cos and sin of  x * cos + rotated(x) * sin,  in any order."""
    left, right = (made_by(value, "Mul") for value in node.inputs)
    if left is None or right is None:
        return None
    for plain, turned in ((left, right), (right, left)):
        for at in (0, 1):
            x = _unrotated(turned.inputs[at])
            if x is None:
                continue
            cosines = [one for one in plain.inputs if one is not None and origin(one) is not x]
            sine = turned.inputs[1 - at]
            if len(cosines) == 1 and sine is not None:
                return Rotation(x, cosines[0], sine)
    return None


def _why_not(node: ir.Node) -> str:
    """Two products are added, and a factor of one is put together from pieces of which one is negated."""
    products = [made_by(value, "Mul") for value in node.inputs]
    factors = [value for one in products if one is not None for value in one.inputs] if None not in products else []
    for factor in factors:
        concat = made_by(factor, "Concat")
        negated = [made_by(piece, "Neg") for piece in concat.inputs] if concat is not None else []
        sources = [made_by(one.inputs[0], "Slice", "Split") for one in negated if one is not None]
        if factor is not None and any(sources):
            return f"'{factor.name}' is not concat(-x2, x1) of the halves of one value of four axes"
    return ""


def _unrotated(value: ir.Value | None) -> ir.Value | None:
    """x of  concat(-x2, x1)."""
    concat = made_by(value, "Concat")
    if concat is None or len(concat.inputs) != 2 or normalized_axis(concat.attributes["axis"].as_int(), 4) != 3:
        return None
    negated = made_by(concat.inputs[0], "Neg")
    upper = _half(negated.inputs[0]) if negated else None
    lower = _half(concat.inputs[1])
    if upper is None or lower is None or upper[0] is not lower[0]:
        return None
    x = upper[0]
    shape = sizes(x, 4)
    size = shape[3] if shape else None
    return x if isinstance(size, int) and (lower[1], upper[1]) == ((0, size // 2), (size // 2, size)) else None


def _half(value: ir.Value | None) -> tuple[ir.Value, tuple[int, int]] | None:
    """The source of a slice or split of the last axis, and from where to where it was cut."""
    if value is None:
        return None
    split = made_by(value, "Split")
    if split is not None:
        return _half_of_split(split, origin(value))
    node = made_by(value, "Slice")
    if node is None or len(node.inputs) < 4 or node.inputs[0] is None:
        return None
    x = origin(node.inputs[0])
    bounds = [integers(one) for one in node.inputs[1:]]
    shape = sizes(x, 4)
    if shape is None or not isinstance(shape[3], int) or any(one is None or len(one) != 1 for one in bounds):
        return None
    (start,), (end,), (axis,), *step = bounds  # type: ignore[misc]  # no None, by the line above
    if normalized_axis(axis, 4) != 3 or step not in ([], [(1,)]):
        return None
    return x, (start, min(end, shape[3]))


def _half_of_split(split: ir.Node, part: ir.Value) -> tuple[ir.Value, tuple[int, int]] | None:
    x = origin(split.inputs[0]) if split.inputs[0] is not None else None
    shape, piece = sizes(x, 4), sizes(part, 4)
    if x is None or shape is None or piece is None or normalized_axis(split.attributes.get_int("axis", 0), 4) != 3:
        return None
    size, width = shape[3], piece[3]
    if not isinstance(size, int) or not isinstance(width, int) or len(split.outputs) != 2 or 2 * width != size:
        return None
    start = width * split.outputs.index(part)
    return x, (start, start + width)


def _halved(table: ir.Value, build: Builder) -> ir.Value | None:
    """cos(concat(f, f)) -> cos(f), through what stands between, the axis of heads taken away."""
    table = origin(table)
    unsqueeze = made_by(table, "Unsqueeze")
    if sizes(table, 4) is not None:
        if unsqueeze is None or unsqueeze.inputs[0] is None or scalar(unsqueeze.inputs[1]) not in {1, -3}:
            return None
        table = origin(unsqueeze.inputs[0])
    return _with_half(table, build) if sizes(table, 3) is not None else None


def _with_half(value: ir.Value, build: Builder) -> ir.Value | None:
    """The same computation on half of the last axis, where both halves are the same value."""
    if (concat := made_by(value, "Concat")) is not None:
        first, *others = concat.inputs
        twice = len(others) == 1 and first is others[0] and concat.attributes["axis"].as_int() in {-1, 2}
        return first if twice else None
    node = made_by(value, "Cos", "Sin", "Cast", "Mul")
    split = by_scalar(node) if node is not None and node.op_type == "Mul" else None
    source = split[0] if split else node.inputs[0] if node is not None else None
    if node is None or source is None or (node.op_type == "Mul" and split is None):
        return None
    half = _with_half(source, build)
    if half is None:
        return None
    inputs = [half if one is source else one for one in node.inputs]
    return build.shared(node.op_type, inputs, node.attributes)
