"""Two constant factors in a row are one, and a product with an inverse is a quotient.

(x * k) * l     ->     x * (k l)          (x / k) * l     ->     x * (l / k)
x * (1 / s)     ->     x / s
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from passes.editing.constants import constant
from passes.formulas.linear import Float64, cast
from passes.local import LocalPass, Scope, producer_of, require, sole_reader
from passes.running.proof import EPSILON

FIRST_THAT_BROADCASTS = 7


class FactorMerging(LocalPass):
    """The second works on what the first was given; nobody else reads what stands between.

    Floats alone: whole numbers are divided with a rest. The factors are multiplied in float64 and rounded once. Refused
    where their product is no number of the type, or takes more room than both. Summands stay as they are: x + 1e8 - 1e8
    is how some round.
    """

    operators: ClassVar[frozenset[str]] = frozenset({"Div", "Mul"})

    def rewrite(self, node: ir.Node, scope: Scope) -> bool:
        dtype = node.outputs[0].dtype
        if scope.opset < FIRST_THAT_BROADCASTS or dtype is None or not dtype.is_floating_point():
            return False
        return _divide(node, scope) or _multiply_once(node, scope)


def _divide(node: ir.Node, scope: Scope) -> bool:
    """x * (1 / s), where the 1 widens nothing."""
    for place in (0, 1) if node.op_type == "Mul" else ():
        inverse, other = node.inputs[place], node.inputs[1 - place]
        made = producer_of(inverse, "Div", "Reciprocal")
        if made is None or inverse is None or other is inverse or not sole_reader(inverse):
            continue
        divisor = made.inputs[-1]
        if made.op_type == "Div" and not (_is_one(made.inputs[0]) and _same_shape(inverse, divisor, scope)):
            continue
        node.op_type = "Div"
        node.replace_input_with(0, other)
        node.replace_input_with(1, divisor)
        return True
    return False


def _is_one(value: ir.Value | None) -> bool:
    tensor = constant(value)
    return tensor is not None and tensor.size > 0 and bool(np.all(tensor.numpy() == 1))


def _same_shape(one: ir.Value, other: ir.Value | None, scope: Scope) -> bool:
    shape = scope.symbols.shape(one)
    return shape is not None and shape == scope.symbols.shape(other)


def _multiply_once(node: ir.Node, scope: Scope) -> bool:
    outer = _factor(node)
    inner_node = producer_of(outer[0], "Div", "Mul") if outer is not None else None
    inner = _factor(inner_node) if inner_node is not None else None
    if outer is None or inner is None or inner_node is None or inner_node.graph is not node.graph:
        return False
    require(sole_reader(inner_node.outputs[0]), f"others read '{inner_node.outputs[0].name}'")
    product: Float64 = outer[1] * inner[1]
    require(product.size <= max(outer[1].size, inner[1].size), "the product of both factors is larger than either")
    dtype = node.outputs[0].dtype
    assert dtype is not None, "held by rewrite"
    tensor = cast(product, dtype.numpy(), "factor")
    close = np.allclose(tensor.numpy().astype(np.float64), product, rtol=EPSILON.get(dtype, 0.0), atol=0)
    require(close, f"the product of both factors is too small for {dtype}")
    factor = scope.constant(tensor, f"{node.outputs[0].name}_factor")
    node.op_type = "Mul"
    node.replace_input_with(0, inner[0])
    node.replace_input_with(1, factor)
    return True


def _factor(node: ir.Node) -> tuple[ir.Value, Float64] | None:
    """What is multiplied, and by which constant; of a quotient, by the inverse of one without a zero."""
    for place in (1, 0) if node.op_type == "Mul" else (1,):
        tensor, value = constant(node.inputs[place]), node.inputs[1 - place]
        if tensor is None or value is None or constant(value) is not None:
            continue
        numbers: npt.NDArray[Any] = tensor.numpy().astype(np.float64)
        if not np.isfinite(numbers).all() or (node.op_type == "Div" and not numbers.all()):
            return None
        return value, numbers if node.op_type == "Mul" else 1 / numbers
    return None
