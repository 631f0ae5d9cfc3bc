"""A constant row that is added to every row of a value, for the operators that add one themselves."""

from __future__ import annotations

from typing import NamedTuple

import onnx_ir as ir

from passes.editing.constants import constant
from passes.formulas.matching import made_by


class Biased(NamedTuple):
    """x + bias, in either order."""

    x: ir.Value
    bias: ir.Value  # [size of the last axis of x]


def biased(value: ir.Value | None) -> Biased | None:
    """What the value is the sum of, where one reader alone would miss the sum; a row of zeros is none to add."""
    node = made_by(value, "Add")
    if node is None or value is None or value is not node.outputs[0] or len(value.uses()) != 1:
        return None
    if value.is_graph_output():
        return None
    for x, bias in (node.inputs, node.inputs[::-1]):
        if x is not None and bias is not None and _is_row(bias, x) and _adds(bias):
            return Biased(x, bias)
    return None


def near(value: ir.Value | None) -> str:
    """Why a constant that is added stays outside; empty where none is, or zeros are."""
    node = made_by(value, "Add")
    if node is None or value is None or value is not node.outputs[0] or biased(value) is not None:
        return ""
    for x, bias in (node.inputs, node.inputs[::-1]):
        if x is None or bias is None or not _adds(bias):
            continue
        if not _is_row(bias, x):
            return f"'{bias.name}' of shape {bias.shape} is no row for the last axis of '{x.name}'"
        return f"'{value.name}' is read by others too"
    return ""


def _is_row(bias: ir.Value, x: ir.Value) -> bool:
    if bias.shape is None or x.shape is None or len(bias.shape) != 1 or len(x.shape) < 2:
        return False
    return bool(bias.shape[0] == x.shape[-1])


def _adds(bias: ir.Value) -> bool:
    tensor = constant(bias)
    return tensor is not None and bool(tensor.numpy().any())
