"""Operators that multiply by a constant weight, and how a scale and a shift for each channel go into it.

scale * (W x + b) + shift  =  (scale W) x + (scale b + shift)

                weight              output channels on axis               bias
Conv            [M, C/g, ...]       0 of the weight, 1 of the output      input 2
ConvTranspose   [C, M/g, ...]       1 of the weight, group by group; 1    input 2
Gemm            [K, N] or [N, K]    1 or, with transB, 0; last            input 2, times beta
MatMul          [..., K, N]         last; last                            none; a Gemm where both sides are matrices
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from passes.editing.constants import constant, is_finite, release
from passes.local import Refused, Scope, producer_of, require

Float64 = npt.NDArray[np.float64]

LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul")
CHANNEL_AXIS = {"Conv": 1, "ConvTranspose": 1, "Gemm": -1, "MatMul": -1}  # of the output
FIRST_GEMM_THAT_BROADCASTS = 7


@dataclass(frozen=True)
class Linear:
    """A linear operator whose result only one node reads."""

    node: ir.Node
    weight: npt.NDArray[Any]
    channels: int
    rank: int  # of the output

    @classmethod
    def before(cls, value: ir.Value | None, reader: ir.Node, scope: Scope) -> Linear | None:
        """The operator that makes `value` for `reader` alone; None where it is another. Raises Refused."""
        node = producer_of(value, *LINEAR)
        if node is None or value is None:
            return None
        kind = node.op_type
        require(node.graph is reader.graph, f"the {kind} stands in another graph, outside of this branch")
        require(not value.is_graph_output(), f"the {kind} result '{value.name}' is itself a graph output")
        readers = len(value.uses())  # a subgraph that captures the value counts
        require(readers == 1, f"the {kind} result '{value.name}' has {readers} readers")
        weight = array_of(node.inputs[1], "weight")
        floats = ir.DataType.from_numpy(weight.dtype).is_floating_point()
        require(floats, f"whole numbers of {weight.dtype} are not scaled without a rest")
        if kind == "Gemm":
            require(scope.opset >= FIRST_GEMM_THAT_BROADCASTS, "before opset 7 a Gemm broadcasts by attribute")
        require(weight.ndim >= 2, f"the weight has shape {list(weight.shape)}")
        return cls(node, weight, _channels(node, weight), _rank(node, weight, scope))

    def take(self, scale: Float64, shift: Float64, scope: Scope) -> None:
        """Multiply by `scale` and add `shift`, both [channels]; computed in float64, cast once. Raises Refused."""
        bias = self._bias()
        weight = _scaled(self.weight, scale, self.node)
        total = shift if bias is None else bias * scale + shift
        needs_bias = bias is not None or bool(shift.any())
        folded = cast(total, self.weight.dtype, "bias") if needs_bias else None
        if folded is not None and self.node.op_type == "MatMul":
            require(self.rank == 2 and self.weight.ndim == 2, "a MatMul of more than two axes has no bias")
            _become_gemm(self.node, scope)
        self._set(1, weight, "weight", scope)
        if folded is not None:
            self._set(2, folded, "bias", scope)
            if self.node.op_type == "Gemm":
                self.node.attributes.pop("beta", None)

    def _bias(self) -> Float64 | None:
        """What is added already, for each channel."""
        if self.node.op_type == "MatMul" or len(self.node.inputs) < 3 or self.node.inputs[2] is None:
            return None  # Conv(x, W, "") has none
        given = array_of(self.node.inputs[2], "bias").astype(np.float64)
        if self.node.op_type != "Gemm":
            return per_channel(given, "bias", self.channels)
        require(given.size in (1, self.channels), f"bias has shape {list(given.shape)} for {self.channels} channels")
        require(given.size == 1 or given.shape[-1] == given.size, "bias differs from row to row")
        return np.broadcast_to(given.reshape(-1), self.channels) * self.node.attributes.get_float("beta", 1.0)

    def _set(self, index: int, tensor: ir.TensorProtocol, role: str, scope: Scope) -> None:
        """A new initializer under the old name; under a fresh one where somebody else goes on reading the old."""
        old = self.node.inputs[index] if index < len(self.node.inputs) else None
        stem = (old.name if old is not None else None) or f"{self.node.outputs[0].name}_{role}"
        self.node.resize_inputs(max(index + 1, len(self.node.inputs)))
        self.node.replace_input_with(index, None)
        if old is not None and release(old):
            scope.names.forget(stem)
        self.node.replace_input_with(index, scope.constant(tensor, stem))


def array_of(value: ir.Value | None, role: str) -> npt.NDArray[Any]:
    """The constant that `value` is. Raises Refused where it is none."""
    tensor = constant(value)
    origin = value.producer() if value is not None else None
    why = f"is computed by {origin.op_type}" if origin else "is a graph input, which the caller may set"
    require(tensor is not None, f"{role} '{value.name if value else ''}' {why}")
    assert tensor is not None  # held by the line above
    return tensor.numpy()


def per_channel(array: npt.NDArray[Any], role: str, channels: int) -> Float64:
    require(array.shape == (channels,), f"{role} has shape {list(array.shape)} for {channels} channels")
    return array.astype(np.float64)


def cast(array: Float64, dtype: np.dtype[Any], role: str) -> ir.TensorProtocol:
    """In the type of the weight. Raises Refused where a number does not fit it."""
    with np.errstate(over="ignore"):  # an overflow is the next line's to report
        tensor = ir.Tensor(array.astype(dtype))
    if not is_finite(tensor):
        raise Refused(f"the folded {role} reaches {np.abs(array).max():.3g}, too large for {dtype}")
    return tensor


def _channels(node: ir.Node, weight: npt.NDArray[Any]) -> int:
    if node.op_type == "Conv" or _is_transposed(node):
        return int(weight.shape[0])
    return int(weight.shape[1] * _group(node) if node.op_type == "ConvTranspose" else weight.shape[-1])


def _rank(node: ir.Node, weight: npt.NDArray[Any], scope: Scope) -> int:
    if node.op_type != "MatMul":
        return weight.ndim
    shape = scope.symbols.shape(node.inputs[0])
    require(shape is not None, "the rank of the MatMul's input is not known")
    assert shape is not None  # held by the line above
    require(len(shape) > 1, "the MatMul's input is a vector, and its result has an axis less")
    return max(len(shape), weight.ndim)


def _is_transposed(node: ir.Node) -> bool:
    return node.op_type == "Gemm" and node.attributes.get_int("transB", 0) == 1


def _group(node: ir.Node) -> int:
    return int(node.attributes.get_int("group", 1))


def _scaled(weight: npt.NDArray[Any], scale: Float64, node: ir.Node) -> ir.TensorProtocol:
    ones = (1,) * (weight.ndim - 2)
    if node.op_type == "Conv" or _is_transposed(node):
        return _product(weight, scale.reshape(-1, 1, *ones), weight.shape)
    if node.op_type != "ConvTranspose":
        return _product(weight, scale, weight.shape)
    by_group = weight.reshape(_group(node), -1, *weight.shape[1:])  # [g, C/g, M/g, ...]
    return _product(by_group, scale.reshape(_group(node), 1, -1, *ones), weight.shape)


def _product(weight: npt.NDArray[Any], scale: Float64, shape: tuple[int, ...]) -> ir.TensorProtocol:
    """As `cast(weight * scale)`, a piece at a time: products in float64 take twice the memory of the weight."""
    result = np.empty(weight.shape, weight.dtype)
    with np.errstate(over="ignore"):
        np.multiply(weight, scale, out=result, dtype=np.float64, casting="unsafe")
    tensor = ir.Tensor(result.reshape(shape))
    return tensor if is_finite(tensor) else cast(weight * scale, weight.dtype, "weight")  # which says why it is refused


def _become_gemm(node: ir.Node, scope: Scope) -> None:
    require(scope.opset >= FIRST_GEMM_THAT_BROADCASTS, "before opset 7 a Gemm broadcasts by attribute")
    node.op_type = "Gemm"
