"""A Concat of what another Concat along the same axis gives is one Concat.

a = Concat(x, y, axis); b = Concat(a, z, axis)     ->     b = Concat(x, y, z, axis)
a = Concat(x, k, axis)                             ->     a = Concat(x, axis)         k: a constant, 0 long there
"""

from __future__ import annotations

from typing import ClassVar

import onnx_ir as ir

from passes.editing.constants import constant, release
from passes.local import LocalPass, Scope, producer_of, require, sole_reader

FIRST_WITH_AXIS = 4  # before, the axis could be left out


class ConcatMerging(LocalPass):
    """The inputs of the first stand where its result stood, in their order.

    Nobody else reads that result: it would be copied twice. An axis counted from the end is told by the rank.
    """

    operators: ClassVar[frozenset[str]] = frozenset({"Concat"})

    def rewrite(self, node: ir.Node, scope: Scope) -> bool:
        if scope.opset >= FIRST_WITH_AXIS and _drop_empty(node):
            return True
        inner = [one for one in (producer_of(value, "Concat") for value in node.inputs) if one is not None]
        axis = _axis(node, scope)
        alike = [one for one in inner if axis is not None and _axis(one, scope) == axis]
        if scope.opset < FIRST_WITH_AXIS or not alike:
            return False
        free = [one for one in alike if one.graph is node.graph and sole_reader(one.outputs[0])]
        require(bool(free), f"others read '{alike[0].outputs[0].name}'")
        inputs: list[ir.Value | None] = []
        for value in node.inputs:
            maker = value.producer() if value is not None else None
            inputs.extend(maker.inputs if maker in free and maker is not None else [value])
        node.resize_inputs(len(inputs))
        for place, value in enumerate(inputs):
            node.replace_input_with(place, value)
        return True


def _drop_empty(node: ir.Node) -> bool:
    axis = node.attributes.get_int("axis", 0)
    full = [value for value in node.inputs if (one := constant(value)) is None or one.shape[axis]]
    if not full or len(full) == len(node.inputs):
        return False
    empty = set(node.inputs) - set(full)
    node.resize_inputs(len(full))
    for place, value in enumerate(full):
        node.replace_input_with(place, value)
    for value in empty:
        if value is not None:
            release(value)
    return True


def _axis(node: ir.Node, scope: Scope) -> int | None:
    axis = node.attributes.get_int("axis", 0)
    shape = scope.symbols.shape(node.outputs[0])
    return axis if axis >= 0 else (None if shape is None else axis + len(shape))
