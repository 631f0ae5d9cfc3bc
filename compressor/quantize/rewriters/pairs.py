"""QuantizeLinear and DequantizeLinear, put into a graph: activations by their range, weights by their values.

uint8   q = round(x / scale) + zero    0..255       scale = (high - low) / 255
int8    the same, -128..127; around zero: zero = 0, scale = max|x| / 127
fp8     float8e4m3fn, zero = 0, scale = max|x| / 448
weights int8 around zero, a scale for each output channel; 7 bits with reduce_range; fp8 with fp8
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from compressor.graph.editing import add_constant, drop_unread
from compressor.quantize.rewriters.ranges import Range
from compressor.recipe.methods import StaticQdq

Array = NDArray[Any]
FP8_LARGEST = 448.0
TYPES: dict[str, Any] = {"uint8": np.uint8, "int8": np.int8, "fp8": ml_dtypes.float8_e4m3fn}
FIRST_OPSET_WITH_AXIS = 13
ALL_INPUTS = frozenset({"Concat"})


@dataclass(frozen=True)
class Form:
    """How activations and weights are coded."""

    dtype: str
    symmetric: bool
    weight_largest: float
    per_channel: bool

    @classmethod
    def of(cls, options: StaticQdq, target: str, opset: int) -> Form:
        dtype = options.dtype or ("uint8" if target == "cpu" else "int8")
        symmetric = dtype != "uint8" if options.symmetric is None else options.symmetric
        largest = FP8_LARGEST if dtype == "fp8" else 63.0 if options.reduce_range else 127.0
        return cls(dtype, symmetric, largest, options.per_channel and opset >= FIRST_OPSET_WITH_AXIS)

    def activation(self, seen: Range) -> tuple[Array, Array]:
        """Scale (float32) and zero point, scalars."""
        kind = TYPES[self.dtype]
        if self.dtype == "fp8":
            return _positive(max(-seen.low, seen.high) / FP8_LARGEST), np.zeros((), kind)
        low, high = np.iinfo(kind).min, np.iinfo(kind).max
        if self.symmetric:
            return _positive(max(-seen.low, seen.high) / 127), np.array((low + high + 1) // 2, kind)
        scale = _positive((seen.high - seen.low) / (high - low))
        return scale, np.array(np.clip(low - np.rint(seen.low / scale), low, high), kind)

    def weight(self, weight: Array, axis: int | None) -> tuple[Array, Array]:
        """Codes, and their scale: a vector along `axis`, or one number."""
        others = None if axis is None else tuple(at for at in range(weight.ndim) if at != axis)
        scale = _positive(np.abs(weight).max(others, keepdims=axis is not None, initial=0) / self.weight_largest)
        codes = weight / scale
        kind = TYPES["fp8" if self.dtype == "fp8" else "int8"]
        return (codes if self.dtype == "fp8" else np.rint(codes)).astype(kind), scale


class Pairs:
    """A graph that is being given its pairs."""

    def __init__(self, model: ir.Model, form: Form) -> None:
        self._graph, self._form = model.graph, form
        self._weights: dict[tuple[ir.Value, int | None], tuple[ir.Value, float]] = {}
        self._left: list[ir.Value] = []

    def add(self, value: ir.Value, seen: Range, readers: Sequence[tuple[ir.Node, int]]) -> None:
        """Let the readers of a value read it through a pair."""
        scale, zero = self._form.activation(seen)
        constants = [
            self._constant(f"{value.name}.{part}", array) for part, array in (("scale", scale), ("zero", zero))
        ]
        coded = self._node("QuantizeLinear", [value, *constants], f"{value.name}.q", value.shape)
        read = self._node("DequantizeLinear", [coded.outputs[0], *constants], f"{value.name}.dq", value.shape)
        read.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
        coded.outputs[0].type = ir.TensorType(ir.DataType.from_numpy(zero.dtype))
        producer = value.producer()
        if producer is not None:
            self._graph.insert_after(producer, [coded, read])
        else:
            self._graph.insert_before(next(iter(self._graph)), [coded, read])
        for node, at in readers:
            node.replace_input_with(at, read.outputs[0])

    def quantize_weights(self, node: ir.Node) -> float | None:
        """Store a node's constant matrices as codes. Returns the relative squared error of the last; None without."""
        error = None
        for at in data_positions(node):
            value = node.inputs[at]
            array = constant(value)
            if value is None or array is None:
                continue
            axis = _channel_axis(node, at, array.ndim) if self._form.per_channel else None
            if (value, axis) not in self._weights:
                self._weights[value, axis] = self._stored(value, array, axis, node)
                self._left.append(value)
            read, error = self._weights[value, axis]
            node.replace_input_with(at, read)
        return error

    def drop_unused(self) -> None:
        """Remove the float weights, and the Transpose or Constant they came from, that nobody reads any more."""
        for value in self._left:
            drop_unread(self._graph, value)

    def _stored(self, value: ir.Value, array: Array, axis: int | None, node: ir.Node) -> tuple[ir.Value, float]:
        codes, scale = self._form.weight(array, axis)
        power = float(np.square(array, dtype=np.float64).sum())
        lost = float(np.square(codes.astype(np.float64) * scale - array).sum())
        stem = value.name if axis is None else f"{value.name}.{axis}"
        stored = scale if axis is None else scale.reshape(-1)
        parts = {"codes": codes, "scale": stored, "zero": np.zeros(stored.shape, codes.dtype)}
        inputs = [self._constant(f"{stem}.{part}", one) for part, one in parts.items()]
        read = self._node("DequantizeLinear", inputs, f"{stem}.dq", ir.Shape(array.shape))
        if axis is not None:
            read.attributes.add(ir.AttrInt64("axis", axis))
        read.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
        self._graph.insert_before(node, read)
        return read.outputs[0], lost / power if power else 0.0

    def _constant(self, name: str, array: Array) -> ir.Value:
        tensor = ir.tensor(np.ascontiguousarray(array).reshape(array.shape), name=name)
        return add_constant(self._graph, tensor)

    def _node(self, op_type: str, inputs: Sequence[ir.Value], name: str, shape: ir.Shape | None) -> ir.Node:
        node = ir.node(op_type, inputs, name=name)
        node.outputs[0].name, node.outputs[0].shape = name, shape
        return node


def data_positions(node: ir.Node) -> range:
    """Inputs that are data or weights: the rest are biases and axes."""
    count = (
        len(node.inputs)
        if node.op_type in ALL_INPUTS
        else {"AveragePool": 1, "GlobalAveragePool": 1}.get(node.op_type, 2)
    )
    return range(min(count, len(node.inputs)))


def data_inputs(node: ir.Node) -> list[ir.Value]:
    return [value for at in data_positions(node) if (value := node.inputs[at]) is not None]


def constant(value: ir.Value | None) -> Array | None:
    """The array that every run sees alike: an initializer, a Constant, or the Transpose of one."""
    if value is None or value.is_graph_input():
        return None
    if value.const_value is not None:
        return np.asarray(value.const_value.numpy())
    producer = value.producer()
    if producer is None or producer.op_type not in ("Constant", "Transpose") or producer.domain:
        return None
    if producer.op_type == "Constant":
        tensor = ir.convenience.get_const_tensor(value)
        return None if tensor is None else np.asarray(tensor.numpy())
    array, perm = constant(producer.inputs[0]), producer.attributes.get("perm")
    return None if array is None else array.transpose(list(perm.as_ints()) if perm else None)


def _channel_axis(node: ir.Node, at: int, rank: int) -> int | None:
    """The axis of a weight's output channels; None where the operator has none, or kernels want one scale."""
    if node.op_type == "Conv":
        return 0 if at == 1 else None
    if node.op_type == "Gemm" and at == 1:
        transposed = node.attributes.get("transB")
        return 0 if transposed is not None and transposed.as_int() else 1
    return 1 if node.op_type == "MatMul" and at == 1 and rank == 2 else None


def _positive(scale: Any) -> Array:
    """A tensor of zeros gets scale 1; and none so small that float32 has no inverse of it."""
    single = np.asarray(scale, np.float32)
    return np.where(single > np.finfo(np.float32).tiny, single, np.float32(1))
