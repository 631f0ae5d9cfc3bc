"""A linear operator followed by an inference BatchNormalization is a linear operator.

    BN(y) = gamma * (y - mean) / sqrt(variance + epsilon) + beta        per channel, all four constant
          = scale * y + shift                                           scale = gamma / sqrt(variance + epsilon)

Jacob et al. 2018, section 3.2: https://arxiv.org/abs/1712.05877
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import onnx_ir as ir

from passes.editing.constants import release
from passes.editing.replacing import drop, hand_over
from passes.formulas.linear import CHANNEL_AXIS, Float64, Linear, array_of, per_channel
from passes.local import LocalPass, Refused, Scope, require

# Where the standard keeps the switch: 1-6 the attribute is_test, 7-13 the number of outputs, 14+ training_mode.
FIRST_WITHOUT_IS_TEST = 7
FIRST_WITHOUT_SPATIAL = 9
DEFAULT_EPSILON = 1e-5


class BatchNormFusion(LocalPass):
    """Fold BatchNormalization into the Conv, ConvTranspose, Gemm or MatMul before it.

        c = Conv(x, W, b); y = BatchNormalization(c, gamma, beta, mean, variance)
     -> y = Conv(x, scale W, scale b + shift)

    Computed in float64 and cast once, to the type of W. A weight that others read too is copied, not overwritten. The
    channels of a BatchNormalization lie on axis 1, so that a MatMul before it must give a matrix.
    """

    operators: ClassVar[frozenset[str]] = frozenset({"BatchNormalization"})

    def rewrite(self, node: ir.Node, scope: Scope) -> bool:
        scope.require_room()
        require_inference(node, scope.opset)
        linear = Linear.before(node.inputs[0], node, scope)
        if linear is None:
            origin = node.inputs[0].producer() if node.inputs[0] is not None else None
            raise Refused(f"its input comes from {origin.op_type if origin else 'a graph input'}, not from a Conv")
        require(CHANNEL_AXIS[linear.node.op_type] == 1 or linear.rank == 2, "the channels of the two lie on other axes")
        scale, shift = affine(node, linear.channels)
        linear.take(scale, shift, scope)
        absorb(node, linear.node, scope)
        return True


def absorb(node: ir.Node, linear: ir.Node, scope: Scope) -> None:
    """The operator's result takes the name of the node's, so that readers and graph outputs see no change."""
    parameters = [value for value in node.inputs if value is not None and value is not linear.outputs[0]]
    hand_over(node.outputs[0], linear.outputs[0], scope.names)
    drop(node)
    for parameter in parameters:
        release(parameter)


def require_inference(batchnorm: ir.Node, opset: int) -> None:
    """Refuse one that normalizes with the statistics of its batch."""
    attributes = batchnorm.attributes
    if opset < FIRST_WITHOUT_IS_TEST:
        require(attributes.get_int("is_test", 0) == 1, "is_test is not 1, so Y depends on the batch")
    if opset < FIRST_WITHOUT_SPATIAL:
        require(attributes.get_int("spatial", 1) == 1, "spatial is 0: one scale a pixel, and a Conv has one a channel")
    require(attributes.get_int("training_mode", 0) == 0, "training_mode is 1, so Y depends on the batch")
    statistics = [output.name for output in batchnorm.outputs[1:] if output.name]
    require(not statistics, f"it has the training outputs {', '.join(map(str, statistics))}")


def affine(batchnorm: ir.Node, channels: int) -> tuple[Float64, Float64]:
    """BN(y) = scale * y + shift, channel by channel."""
    names = ("scale", "B", "mean", "variance")
    parameters = zip(batchnorm.inputs[1:], names, strict=True)
    gamma, beta, mean, variance = (per_channel(array_of(value, name), name, channels) for value, name in parameters)
    epsilon = batchnorm.attributes.get_float("epsilon", DEFAULT_EPSILON)
    # A variance just above -epsilon would pass in float64 and cancel to 0 in the runtime's float32.
    require(bool((variance >= 0).all()), f"the variance {variance.min():.3g} is no variance")
    require(bool((variance + epsilon > 0).all()), "variance + epsilon is 0, and its root divides")
    scale = gamma / np.sqrt(variance + epsilon)
    return scale, beta - mean * scale
