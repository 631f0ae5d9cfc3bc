"""Transposes in a row are one, and two that undo each other are none.

t = Transpose(x, p); y = Transpose(t, q)                     ->     y = Transpose(x, p then q)
t = Transpose(x, p); r = Relu(t); y = Transpose(r, q)        ->     r = Relu(x); y = Transpose(r, p then q)
a = Transpose(x, p); b = Transpose(z, p); y = Add(a, b)      ->     s = Add(x, z); y = Transpose(s, p)
t = Transpose(x, p); y = Gather(t, scalar, axis)             ->     y = Gather(x, scalar, p[axis])
Transpose that moves only axes of 1                          ->     Reshape
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from passes.editing.replacing import hand_over
from passes.local import LocalPass, Refused, Scope, producer_of, sole_reader
from passes.shape_arithmetic import express

# One input and one output, entry by entry; a Clip's bounds are scalars.
# fmt: off
ENTRYWISE = (
    "Abs", "Cast", "Ceil", "Clip", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "Identity",
    "LeakyRelu", "Log", "Mish", "Neg", "Not", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Softplus",
    "Softsign", "Sqrt", "Tanh",
)
# fmt: on
PAIRWISE = frozenset({"Add", "Div", "Mul", "Pow", "Sub"})
FIRST_WITH_SHAPE_INPUT = 5


class TransposeMerging(LocalPass):
    """Merge a Transpose with the one before it, through operators that work entry by entry and have no other reader.

    A Transpose without `perm` reverses the axes.
    """

    operators: ClassVar[frozenset[str]] = frozenset({"Gather", "Transpose"}) | PAIRWISE

    def rewrite(self, node: ir.Node, scope: Scope) -> bool:
        if node.op_type in PAIRWISE:
            return _push_through_pair(node, scope)
        if node.op_type == "Gather":
            return _gather_before(node, scope)
        order = order_of(node, scope)
        if order is None:
            return False
        return _merge(node, order, scope) or _become_reshape(node, order, scope)


def order_of(node: ir.Node, scope: Scope) -> list[int] | None:
    """The axes in their new order; None where a Transpose names none and nobody knows how many there are."""
    if "perm" in node.attributes:
        return list(node.attributes["perm"].as_ints())
    shape = scope.symbols.shape(node.inputs[0])
    return None if shape is None else list(range(len(shape)))[::-1]


def _merge(node: ir.Node, order: Sequence[int], scope: Scope) -> bool:
    """Walk back through what works entry by entry, to a Transpose."""
    chain: list[ir.Node] = []
    value = node.inputs[0]
    while (step := producer_of(value, *ENTRYWISE)) is not None and value is not None and sole_reader(value):
        if step.graph is not node.graph:
            return False
        chain.append(step)
        value = step.inputs[0]
    first = producer_of(value, "Transpose")
    if first is None or value is None or (chain and not sole_reader(value)):
        return False
    inner = order_of(first, scope)
    source = first.inputs[0]
    if inner is None or source is None:
        return False
    if chain:
        chain[-1].replace_input_with(0, source)
        for step in chain:
            step.outputs[0].shape = None
    else:
        node.replace_input_with(0, source)
    together = [inner[axis] for axis in order]
    node.attributes["perm"] = ir.AttrInt64s("perm", together)
    return True


def _gather_before(node: ir.Node, scope: Scope) -> bool:
    """One entry of one axis, taken before the Transpose, where the other axes keep their order."""
    transpose = producer_of(node.inputs[0], "Transpose")
    order = order_of(transpose, scope) if transpose is not None else None
    if transpose is None or order is None or scope.symbols.shape(node.inputs[1]) != ():
        return False
    axis = node.attributes.get_int("axis", 0) % len(order)
    rest = order[:axis] + order[axis + 1 :]
    if rest != sorted(rest):
        return False
    node.replace_input_with(0, transpose.inputs[0])
    node.attributes["axis"] = ir.AttrInt64("axis", order[axis])
    return True


def _become_reshape(node: ir.Node, order: Sequence[int], scope: Scope) -> bool:
    """The axes that have more than one entry keep their order."""
    before, after = scope.symbols.shape(node.inputs[0]), scope.symbols.shape(node.outputs[0])
    if before is None or after is None or scope.opset < FIRST_WITH_SHAPE_INPUT or list(order) == sorted(order):
        return False
    wide = [axis for axis in order if before[axis].known != 1]
    if wide != sorted(wide):
        return False
    target = scope.constant(np.array(express(after, before), np.int64), f"{node.outputs[0].name}_shape")
    node.op_type = "Reshape"
    node.attributes.clear()
    node.resize_inputs(2)
    node.replace_input_with(1, target)
    return True


def _push_through_pair(node: ir.Node, scope: Scope) -> bool:
    """Both operands are transposed alike and read here alone: one Transpose behind instead of two before."""
    transposes = [producer_of(value, "Transpose") for value in node.inputs]
    if "broadcast" in node.attributes or None in transposes or len(transposes) != 2:
        return False
    orders = [order_of(one, scope) for one in transposes if one is not None]
    if orders[0] is None or orders[0] != orders[1]:
        raise Refused(f"its operands are transposed differently: {orders[0]} and {orders[1]}")
    values = [one for one in node.inputs if one is not None]
    if values[0] is values[1] or not all(sole_reader(one) for one in values):
        return False
    for place, one in enumerate(transposes):
        assert one is not None  # held above
        node.replace_input_with(place, one.inputs[0])
    result = node.outputs[0]
    behind = ir.node("Transpose", [None], {"perm": orders[0]})
    node.append(behind)
    hand_over(result, behind.outputs[0], scope.names)
    result.name, result.shape = scope.names.fresh(f"{result.name}_before"), None
    behind.replace_input_with(0, result)
    return True
