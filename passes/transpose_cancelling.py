"""Two Transposes that undo each other go; a constant that was met between them is transposed once and for all.

t = Transpose(x, p); a = Add(t, c); y = Transpose(a, inverse of p)     ->     y = Add(x, c transposed)
t = Transpose(x, p); s = Softmax(t, axis); y = Transpose(s, inverse)   ->     y = Softmax(x, p[axis])
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import numpy as np
import onnx_ir as ir

from passes.editing.constants import constant, release
from passes.local import LocalPass, Scope, producer_of, require, sole_reader
from passes.transpose_merging import ENTRYWISE, PAIRWISE, order_of

ALONG_AN_AXIS = ("Hardmax", "LogSoftmax", "Softmax")
FIRST_ALONG_ONE_AXIS = 13  # before, they worked on all axes from `axis` on
LARGEST_COPY = 1024  # bytes: a constant that is read elsewhere too is stored twice


class _Step(NamedTuple):
    """A node between the two Transposes, and which of its inputs comes from the first."""

    node: ir.Node
    place: int


class _Operand(NamedTuple):
    """A constant, and the place where it is read: beside the data, or by the node that dequantizes it."""

    value: ir.Value
    reader: ir.Node
    place: int


class TransposeCancelling(LocalPass):
    """Drop both, where what stands between works entry by entry or along one axis and has no other reader.

    The other operand of a sum or product is a constant of one entry, a constant that only such operands read, or the
    DequantizeLinear of one with a scale for all. Nothing moves where the Transposes leave an order behind.
    """

    operators: ClassVar[frozenset[str]] = frozenset({"Transpose"})

    def rewrite(self, node: ir.Node, scope: Scope) -> bool:
        order, (first, steps) = order_of(node, scope), _walk_back(node, scope)
        inner = order_of(first, scope) if first is not None else None
        if first is None or inner is None or order is None or not steps:
            return False
        if len(order) != len(inner) or [inner[axis] for axis in order] != sorted(inner):
            return False  # a constant of more axes may stand between
        operands = [one for step in steps for one in _operands(step, len(inner))]
        for operand in operands:
            _require_own(operand, operands)
        _transpose(operands, [inner.index(axis) for axis in range(len(inner))], scope)
        return _connect(node, first, steps, inner, scope)


def _walk_back(node: ir.Node, scope: Scope) -> tuple[ir.Node | None, list[_Step]]:
    """The Transpose that the walk ends at, and the steps from there to here."""
    kinds = (*ENTRYWISE, *PAIRWISE, *(ALONG_AN_AXIS if scope.opset >= FIRST_ALONG_ONE_AXIS else ()))
    steps: list[_Step] = []
    value = node.inputs[0]
    while value is not None and sole_reader(value):
        if (first := producer_of(value, "Transpose")) is not None:
            return (first if first.graph is node.graph else None), steps[::-1]
        step = producer_of(value, *kinds)
        if step is None or step.graph is not node.graph or "broadcast" in step.attributes:
            break
        steps.append(_Step(step, _place_of_data(step)))
        value = step.inputs[steps[-1].place]
    return None, []


def _place_of_data(step: ir.Node) -> int:
    """The input that is no constant."""
    return int(step.op_type in PAIRWISE and _held(step.inputs[0]) is not None)


def _held(value: ir.Value | None) -> ir.Value | None:
    """The constant that a value is, or that it dequantizes with one scale."""
    quantized = producer_of(value, "DequantizeLinear")
    if quantized is None:
        return value if constant(value) is not None else None
    scale = constant(quantized.inputs[1])
    whole = scale is not None and scale.size == 1 and constant(quantized.inputs[0]) is not None
    return quantized.inputs[0] if whole else None


def _operands(step: _Step, rank: int) -> list[_Operand]:
    """The constant beside the data, where it has to be transposed. Raises Refused where it is none."""
    if step.node.op_type not in PAIRWISE:
        return []
    other = step.node.inputs[1 - step.place]
    value, quantized = _held(other), producer_of(other, "DequantizeLinear")
    require(value is not None, f"its operand '{other.name if other else ''}' is computed at run time")
    tensor = constant(value)
    assert value is not None and tensor is not None and other is not None  # noqa: PT018  held by the lines above
    require(len(tensor.shape) <= rank, f"the constant '{value.name}' has more axes than the data")
    if tensor.size == 1:
        return []
    require(quantized is None or (sole_reader(other) and len(tensor.shape) == rank), "its operand has other readers")
    return [_Operand(value, quantized or step.node, 0 if quantized else 1 - step.place)]


def _require_own(operand: _Operand, operands: Sequence[_Operand]) -> None:
    tensor = constant(operand.value)
    assert tensor is not None  # held by _operands
    between = {(one.reader, one.place) for one in operands}
    own = all((reader, place) in between for reader, place in operand.value.uses())
    require(own or tensor.nbytes <= LARGEST_COPY, f"others read '{operand.value.name}', and a copy would be stored")


def _transpose(operands: Sequence[_Operand], axes: Sequence[int], scope: Scope) -> None:
    """Every reader between the Transposes gets the transposed constant, one for all readers of the same."""
    for value in dict.fromkeys(one.value for one in operands):
        tensor = constant(value)
        assert tensor is not None  # held by _operands
        array = tensor.numpy()
        aligned = array.reshape((1,) * (len(axes) - array.ndim) + array.shape)
        twin = scope.constant(ir.Tensor(np.ascontiguousarray(aligned.transpose(axes))), f"{value.name}_transposed")
        for one in operands:
            if one.value is value:
                one.reader.replace_input_with(one.place, twin)
                one.reader.outputs[0].shape = None
        release(value)


def _connect(node: ir.Node, first: ir.Node, steps: Sequence[_Step], inner: Sequence[int], scope: Scope) -> bool:
    steps[0].node.replace_input_with(steps[0].place, first.inputs[0])
    for step, _ in steps:
        step.outputs[0].shape = None
        if step.op_type in ALONG_AN_AXIS:
            axis = inner[step.attributes.get_int("axis", -1)]
            step.attributes["axis"] = ir.AttrInt64("axis", axis)
    return scope.replace(node, steps[-1].node.outputs[0])
