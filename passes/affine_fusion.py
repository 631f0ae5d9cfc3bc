"""A linear operator followed by a constant factor or summand for each channel is a linear operator.

c = Conv(x, W, b); y = Mul(c, s)     ->     y = Conv(x, s W, s b)          s: [C, 1, 1]
c = Gemm(x, W);    y = Add(c, t)     ->     y = Gemm(x, W, t)              t: [N]
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from passes.batchnorm_fusion import absorb
from passes.editing.constants import constant
from passes.formulas.linear import CHANNEL_AXIS, Float64, Linear
from passes.local import LocalPass, Scope, require


class AffineFusion(LocalPass):
    """Fold Add, Sub, Mul or Div by a constant into the Conv, ConvTranspose, Gemm or MatMul before it.

    The constant may differ along the channels alone: numpy aligns shapes at the last axis, so a vector behind a Conv
    belongs to its width, whatever its length. A MatMul takes a factor, and a summand where it gives a matrix.
    """

    operators: ClassVar[frozenset[str]] = frozenset({"Add", "Div", "Mul", "Sub"})

    def rewrite(self, node: ir.Node, scope: Scope) -> bool:
        place = next((i for i in (0, 1) if constant(node.inputs[1 - i]) is not None), None)
        if place is None or "broadcast" in node.attributes or (node.op_type == "Div" and place == 1):
            return False
        linear = Linear.before(node.inputs[place], node, scope)
        tensor = constant(node.inputs[1 - place])
        if linear is None or tensor is None:
            return False
        scope.require_room()
        number = _along_channels(tensor.numpy(), linear)
        linear.take(*_scale_and_shift(node.op_type, number, is_first=place == 0), scope)
        absorb(node, linear.node, scope)
        return True


def _along_channels(array: npt.NDArray[Any], linear: Linear) -> Float64:
    """One number a channel. Raises Refused where the constant differs along another axis, or adds one."""
    shape, kind = list(array.shape), linear.node.op_type
    require(len(shape) <= linear.rank, f"the constant {shape} has more axes than the {kind}'s result")
    padded = [1] * (linear.rank - len(shape)) + shape
    axis = CHANNEL_AXIS[kind] % linear.rank
    rest = [size for i, size in enumerate(padded) if i != axis]
    require(all(size == 1 for size in rest), f"the constant {shape} differs along another axis than the channels")
    require(padded[axis] in (1, linear.channels), f"the constant {shape} is not for {linear.channels} channels")
    return np.broadcast_to(array.reshape(-1).astype(np.float64), linear.channels)


def _scale_and_shift(op_type: str, number: Float64, *, is_first: bool) -> tuple[Float64, Float64]:
    one, zero = np.ones_like(number), np.zeros_like(number)
    if op_type == "Mul":
        return number, zero
    if op_type == "Div":
        require(bool(number.all()), "a divisor is 0")
        return 1 / number, zero
    if op_type == "Add":
        return one, number
    return (one, -number) if is_first else (-one, number)
