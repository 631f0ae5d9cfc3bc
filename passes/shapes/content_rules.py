"""What the entries of shape tensors are: a row for each operator that exporters compute shapes with."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from passes.computing.indexing import window
from passes.shapes.size_rules import Facts, Partial, Rule, slice_bounds
from passes.shapes.sizes import Size, known, product


def _shape_of(node: ir.Node, facts: Facts) -> Partial | None:
    shape = facts.shape(node.inputs[0])
    return None if shape is None else shape[node.attributes.get_int("start", 0) : _end(node)]


def _end(node: ir.Node) -> int | None:
    end = node.attributes.get("end")
    return None if end is None else end.as_int()


def _size_of(node: ir.Node, facts: Facts) -> Partial | None:
    shape = facts.shape(node.inputs[0])
    return None if shape is None else (product(shape),)


def _same(node: ir.Node, facts: Facts) -> Partial | None:
    return facts.content(node.inputs[0])


def _cast(node: ir.Node, facts: Facts) -> Partial | None:
    """No size of a tensor that runs is too large for an INT32."""
    given = node.inputs[0].dtype if node.inputs[0] is not None else None
    whole = {ir.DataType.INT64, ir.DataType.INT32}
    return facts.content(node.inputs[0]) if whole.issuperset({given, node.attributes.get_int("to", 0)}) else None


def _gather(node: ir.Node, facts: Facts) -> Partial | None:
    content, indices = facts.content(node.inputs[0]), known(facts.content(node.inputs[1]))
    if content is None or indices is None or _rank(node.inputs[0], facts) != 1:
        return None
    if not all(-len(content) <= index < len(content) for index in indices):
        return None
    return [content[index] for index in indices]


def _slice(node: ir.Node, facts: Facts) -> Partial | None:
    content = facts.content(node.inputs[0])
    bounds = slice_bounds(node, facts)
    if content is None or bounds is None or len(bounds) != 1 or _rank(node.inputs[0], facts) != 1:
        return None
    ((_, start, end, step),) = bounds
    return content[window(len(content), start, end, step)]


def _concat(node: ir.Node, facts: Facts) -> Partial | None:
    parts: list[Size | None] = []
    for value in node.inputs:
        content = facts.content(value)
        if content is None:
            return None
        parts += content
    return parts


def _arithmetic(compute: Callable[[Size, Size], Size | None]) -> Rule:
    def rule(node: ir.Node, facts: Facts) -> Partial | None:
        a, b = facts.content(node.inputs[0]), facts.content(node.inputs[1])
        if a is None or b is None or (len(a) != len(b) and 1 not in (len(a), len(b))):
            return None
        length = max(len(a), len(b)) if a and b else 0
        left, right = (one * length if len(one) == 1 else one for one in (a, b))
        return [compute(one, other) for one, other in zip(left, right, strict=True)]

    return rule


def _difference(a: Size, b: Size) -> Size | None:
    return a.plus(b.times(Size.of(-1)))


def _quotient(a: Size, b: Size) -> Size | None:
    """Exact ones only: how a rest is cut depends on signs."""
    return a.over(b)


def _reduced_product(node: ir.Node, facts: Facts) -> Partial | None:
    content = facts.content(node.inputs[0])
    return None if content is None or _rank(node.inputs[0], facts) != 1 else (product(content),)


def _rank(value: ir.Value | None, facts: Facts) -> int | None:
    shape = facts.shape(value)
    return None if shape is None else len(shape)


CONTENTS: dict[str, Rule] = {
    "Add": _arithmetic(lambda a, b: a.plus(b)),
    "Cast": _cast,
    "Concat": _concat,
    "Div": _arithmetic(_quotient),
    "Gather": _gather,
    "Identity": _same,
    "Mul": _arithmetic(lambda a, b: a.times(b)),
    "ReduceProd": _reduced_product,
    "Reshape": _same,
    "Shape": _shape_of,
    "Size": _size_of,
    "Slice": _slice,
    "Squeeze": _same,
    "Sub": _arithmetic(_difference),
    "Unsqueeze": _same,
}
