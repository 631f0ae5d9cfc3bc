"""A Conv followed by an inference BatchNormalization is a Conv.

    BN(y) = gamma * (y - mean) / sqrt(variance + epsilon) + beta        per channel, all four constant
    Conv(x) = W * x + b
    BN(Conv(x)) = (scale W) * x + (b - mean) scale + beta               scale = gamma / sqrt(variance + epsilon)

Jacob et al. 2018, section 3.2: https://arxiv.org/abs/1712.05877
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir.traversal import RecursiveGraphIterator

from passes.constants import (
    FIRST_IR_WITH_PRIVATE_INITIALIZERS,
    IR_TOO_OLD,
    add_initializer,
    constant,
    fresh_name,
    is_finite,
    release,
)
from passes.refusal import Refusal

Float64 = npt.NDArray[np.float64]

# Where the standard keeps the switch: 1-6 the attribute is_test, 7-13 the number of outputs, 14+ training_mode.
FIRST_WITHOUT_IS_TEST = 7
FIRST_WITHOUT_SPATIAL = 9
DEFAULT_EPSILON = 1e-5


class FusionError(Exception):
    """Carries the reason why one BatchNormalization stays."""


@dataclass
class ConvBatchNormFusion(ir.passes.InPlacePass):
    """Fold BatchNormalization into the Conv or ConvTranspose before it.

        c = Conv(x, W, b); y = BatchNormalization(c, gamma, beta, mean, variance)
     -> y = Conv(x, scale W, (b - mean) scale + beta)

    Computed in float64 and cast once, to the type of W. A weight that others read too is copied, not overwritten.
    Bodies of functions are left alone; inline them first.
    """

    refusals: list[Refusal] = field(default_factory=list, init=False)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        self.refusals = []
        nodes = [n for n in RecursiveGraphIterator(model.graph) if (n.domain, n.op_type) == ("", "BatchNormalization")]
        return ir.passes.PassResult(model, any([self._try_to_fuse(node, model) for node in nodes]))

    def _try_to_fuse(self, batchnorm: ir.Node, model: ir.Model) -> bool:
        try:
            _fuse(batchnorm, model)
        except FusionError as reason:
            self.refusals.append(Refusal.of(batchnorm, str(reason)))
            return False
        return True


def _fuse(batchnorm: ir.Node, model: ir.Model) -> None:
    """Check everything, then compute, then edit: a refusal leaves the graph as it was."""
    _require(model.ir_version >= FIRST_IR_WITH_PRIVATE_INITIALIZERS, IR_TOO_OLD)
    _require_inference(batchnorm, model.opset_imports.get("", 1))
    conv = _private_conv(batchnorm)
    weight, bias = _fold(conv, batchnorm)
    parameters = [value for value in batchnorm.inputs[1:] if value is not None]
    _hand_over_output(batchnorm, conv)
    _set_weights(conv, weight, bias, model.graph)
    for parameter in parameters:
        release(parameter)


def _require(condition: bool, reason: str) -> None:
    if not condition:
        raise FusionError(reason)


def _require_inference(batchnorm: ir.Node, opset: int) -> None:
    attributes = batchnorm.attributes
    if opset < FIRST_WITHOUT_IS_TEST:
        _require(attributes.get_int("is_test", 0) == 1, "is_test is not 1, so Y depends on the batch")
    if opset < FIRST_WITHOUT_SPATIAL:
        _require(attributes.get_int("spatial", 1) == 1, "spatial is 0: one scale a pixel, and a Conv has one a channel")
    _require(attributes.get_int("training_mode", 0) == 0, "training_mode is 1, so Y depends on the batch")
    statistics = [output.name for output in batchnorm.outputs[1:] if output.name]
    _require(not statistics, f"it has the training outputs {', '.join(map(str, statistics))}")


def _private_conv(batchnorm: ir.Node) -> ir.Node:
    """The convolution whose only reader is this BatchNormalization."""
    value = batchnorm.inputs[0]
    conv = value.producer() if value is not None else None
    if value is None or conv is None or conv.domain or conv.op_type not in {"Conv", "ConvTranspose"}:
        raise FusionError(f"its input comes from {conv.op_type if conv else 'a graph input'}, not from a Conv")
    _require(conv.graph is batchnorm.graph, f"the {conv.op_type} stands in another graph, outside of this branch")
    _require(not value.is_graph_output(), f"the {conv.op_type} result '{value.name}' is itself a graph output")
    readers = len(value.uses())  # a subgraph that captures the value counts
    _require(readers == 1, f"the {conv.op_type} result '{value.name}' has {readers} readers")
    return conv


def _fold(conv: ir.Node, batchnorm: ir.Node) -> tuple[ir.TensorProtocol, ir.TensorProtocol]:
    """The new weight and bias, both of the old weight's type."""
    weight = _array(conv.inputs[1], "weight")
    channels = weight.shape[0] if conv.op_type == "Conv" else weight.shape[1] * _group(conv)
    bias = _per_channel(conv.inputs[2], "bias", channels) if _has_bias(conv) else np.zeros(channels)
    scale, shift = _affine(batchnorm, channels)
    scaled = _scale_channels(weight.astype(np.float64), scale, conv)
    return _cast(scaled, weight.dtype, "weight"), _cast(bias * scale + shift, weight.dtype, "bias")


def _affine(batchnorm: ir.Node, channels: int) -> tuple[Float64, Float64]:
    """BN(y) = scale * y + shift, channel by channel."""
    names = ("scale", "B", "mean", "variance")
    parameters = zip(batchnorm.inputs[1:], names, strict=True)
    gamma, beta, mean, variance = (_per_channel(value, name, channels) for value, name in parameters)
    epsilon = batchnorm.attributes.get_float("epsilon", DEFAULT_EPSILON)
    # A variance just above -epsilon would pass in float64 and cancel to 0 in the runtime's float32.
    _require(bool((variance >= 0).all()), f"the variance {variance.min():.3g} is no variance")
    _require(bool((variance + epsilon > 0).all()), "variance + epsilon is 0, and its root divides")
    scale = gamma / np.sqrt(variance + epsilon)
    return scale, beta - mean * scale


def _has_bias(conv: ir.Node) -> bool:
    return len(conv.inputs) > 2 and conv.inputs[2] is not None  # Conv(x, W, "") has none


def _scale_channels(weight: Float64, scale: Float64, conv: ir.Node) -> Float64:
    """Conv keeps its output channels on axis 0: [M, C/g, ...]; ConvTranspose on 1, group by group: [C, M/g, ...]."""
    ones = (1,) * (weight.ndim - 2)
    if conv.op_type == "Conv":
        return weight * scale.reshape(-1, 1, *ones)
    by_group = weight.reshape(_group(conv), -1, *weight.shape[1:])  # [g, C/g, M/g, ...]
    scaled: Float64 = by_group * scale.reshape(_group(conv), 1, -1, *ones)
    return scaled.reshape(weight.shape)


def _group(conv: ir.Node) -> int:
    return int(conv.attributes.get_int("group", 1))


def _array(value: ir.Value | None, role: str) -> npt.NDArray[Any]:
    tensor = constant(value)
    if value is None or tensor is None:
        origin = value.producer() if value is not None else None
        why = f"is computed by {origin.op_type}" if origin else "is a graph input, which the caller may set"
        raise FusionError(f"{role} '{value.name if value else ''}' {why}")
    return tensor.numpy()


def _per_channel(value: ir.Value | None, role: str, channels: int) -> Float64:
    array = _array(value, role)
    _require(array.shape == (channels,), f"{role} has shape {list(array.shape)} for {channels} channels")
    return array.astype(np.float64)


def _cast(array: Float64, dtype: np.dtype[Any], role: str) -> ir.TensorProtocol:
    with np.errstate(over="ignore"):  # an overflow is the next line's to report
        tensor = ir.Tensor(array.astype(dtype))
    _require(is_finite(tensor), f"the folded {role} reaches {np.abs(array).max():.3g}, too large for {dtype}")
    return tensor


def _hand_over_output(batchnorm: ir.Node, conv: ir.Node) -> None:
    """The Conv's result takes the BatchNormalization's name, so that readers and graph outputs see no change."""
    old, new = batchnorm.outputs[0], conv.outputs[0]
    new.name, new.type, new.shape = old.name, old.type, old.shape
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    assert batchnorm.graph is not None, "the traversal yields nodes of a graph"
    batchnorm.graph.remove(batchnorm, safe=True)


def _set_weights(conv: ir.Node, weight: ir.TensorProtocol, bias: ir.TensorProtocol, root: ir.Graph) -> None:
    """New initializers under the old names; under fresh ones where somebody else goes on reading the old."""
    assert conv.graph is not None, "the traversal yields nodes of a graph"
    conv.resize_inputs(3)
    for index, tensor, role in ((1, weight, "weight"), (2, bias, "bias")):
        old = conv.inputs[index]
        conv.replace_input_with(index, None)
        if old is not None:
            release(old)
        name = fresh_name(root, (old.name if old is not None else None) or f"{conv.outputs[0].name}_{role}")
        conv.replace_input_with(index, add_initializer(conv.graph, name, tensor))
