"""QTensors of 8 bits become integer products whose activations are quantized at run time.

tensor (dynamic)     q, s, z = DynamicQuantizeLinear(x)                one range for a whole call, uint8
row (LLM.int8())     s = max|row of x| / 127,   q = round(x / s)       a scale for each token: vector-wise

    y = x @ W   ->   y = MatMulInteger(q, W int8) * (s * scale of W)

With outlier columns O of x (rows of W), which stay in the precision they had:

    y = MatMulInteger(q of x without O, W int8) * scale of W * s  +  x[O] @ W[O]

ONNX Runtime 1.31.1 makes one operator of MatMulInteger(q, W) * (s * scale of W) and a bias behind it. Where s is a
scale for each row, that operator multiplies the bias by s as well. One scale after the other is not fused.
ONNX Runtime's CPU multiplies uint8 x int8 13 times as fast as int8 x int8 (1024 x 1024, AVX-512 VNNI), so there the
codes are stored 128 higher and their zero point says so; its CUDA provider has int8 x int8 alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray

from compressor.package import products
from compressor.quantize.flow.linears import Linear, in_order
from compressor.quantize.qtensor import QTensor

UNSIGNED_TARGETS = ("cpu", "generic")
FIRST_OPSET_WITH_AXES_INPUT = 18  # of ReduceMax
SMALLEST = np.float32(2.0**-100)  # below it a row is zeros, and 1 / scale would be infinite
# Columns of the input that stay float; a number: those that reach it in a call; None: dynamic, one scale a call.
Outliers = Sequence[int] | float | None


def replace_linears(
    model: ir.Model,
    linears: list[Linear],
    load: Callable[[str], QTensor],
    outliers: Mapping[str, Outliers],
    target: str,
) -> Mapping[str, int]:
    """Put an integer product in the place of each linear, in place. Returns the bytes of each stored weight."""
    writer = _Writer(model, unsigned=target in UNSIGNED_TARGETS)
    stored = {one.name: writer.store(one, load(one.name), outliers[one.name]) for one in linears}
    for product in in_order(model, linears):  # codes of an input stand before the first that reads them
        writer.replace(product, stored[product.name], outliers[product.name])
    held = {name: [one.const_value for one in parts] for name, parts in stored.items()}
    return {name: sum(one.nbytes for one in parts if one is not None) for name, parts in held.items()}


@dataclass(frozen=True)
class _Activation:
    """An activation as codes, with its scale (one, or one a row) and zero point; and its outliers, to be picked."""

    codes: ir.Value
    scale: ir.Value
    zero: ir.Value | None
    columns: ir.Value | None = None
    picked: ir.Value | None = None


class _Writer:
    """Writes the products of one graph; linears of one input and the same outliers share its codes."""

    def __init__(self, model: ir.Model, *, unsigned: bool) -> None:
        self._model, self._unsigned = model, unsigned
        self._opset = model.opset_imports[""]
        self._activations: dict[tuple[ir.Value, str], _Activation] = {}
        self._constants: dict[tuple[str, bytes], ir.Value] = {}
        self._nodes: list[ir.Node] = []

    def store(self, linear: Linear, tensor: QTensor, outliers: Outliers) -> list[ir.Value]:
        """Codes, scales, and the rows that stay float where some do."""
        arrays = {
            "codes": (tensor.q.short() - tensor.zero.short()).to(torch.int8).cpu().numpy(),
            "scales": np.ascontiguousarray(tensor.scale.reshape(-1).cpu().numpy()),
        }
        if outliers and not isinstance(outliers, float):
            arrays["kept"] = np.ascontiguousarray(linear.read()[list(outliers)].numpy())
        return [products.initializer(self._model, f"{linear.name}.{part}", array) for part, array in arrays.items()]

    def replace(self, product: Linear, stored: Sequence[ir.Value], outliers: Outliers) -> None:
        """Put the integer product with a stored weight in the place of one product."""
        self._nodes = []
        codes, scales, *kept = stored
        x = self._activation(product, outliers)
        integers = self._node("MatMulInteger", [x.codes, codes, *([] if x.zero is None else [x.zero])])
        y = self._scaled(self._float(integers), x.scale, scales, by_row=outliers is not None)
        if x.columns is not None and x.picked is not None:
            rows = kept[0] if kept else self._dequantized(codes, scales, x.columns)
            y = self._node("Add", [y, self._node("MatMul", [x.picked, rows])])
        if product.dtype != np.float32:
            self._node("Cast", [y], to=ir.DataType.from_numpy(product.dtype))
        products.replace(self._model, product, self._nodes)

    def _dequantized(self, codes: ir.Value, scales: ir.Value, rows: ir.Value) -> ir.Value:
        """Rows of the weight that are found at run time."""
        return self._node("Mul", [self._float(self._node("Gather", [codes, rows], axis=0)), scales])

    def _activation(self, linear: Linear, outliers: Outliers) -> _Activation:
        x = products.input_of(linear)
        assert x is not None  # held by find_linears
        key = (x, str(outliers))
        if key not in self._activations:
            wide = x if linear.dtype == np.float32 else self._float(x)  # DynamicQuantizeLinear takes nothing else
            self._activations[key] = self._quantized(wide, linear.shape[0], outliers)
        return self._activations[key]

    def _quantized(self, x: ir.Value, width: int, outliers: Outliers) -> _Activation:
        if outliers is None:
            node = ir.node("DynamicQuantizeLinear", [x], num_outputs=3)
            self._nodes.append(node)
            return _Activation(*node.outputs)
        if isinstance(outliers, float):
            return self._at_run_time(x, width, outliers)
        if not outliers:
            return self._by_row(x)
        regular = np.ones(width, np.float32)
        regular[list(outliers)] = 0
        columns = self._constant("outliers", np.array(outliers))
        picked = self._node("Gather", [x, columns], axis=-1)
        made = self._by_row(self._node("Mul", [x, self._constant("regular", regular)]))
        return replace(made, columns=columns, picked=picked)

    def _at_run_time(self, x: ir.Value, width: int, threshold: float) -> _Activation:
        tokens = self._node("Reshape", [self._node("Abs", [x]), self._constant("tokens", np.array([-1, width]))])
        loud = self._node(
            "GreaterOrEqual", [self._maximum(tokens, 0, keep=False), self._constant("threshold", np.float32(threshold))]
        )
        columns = self._node("Reshape", [self._node("NonZero", [loud]), self._constant("flat", np.array([-1]))])
        picked = self._node("Gather", [x, columns], axis=-1)
        made = self._by_row(self._node("Mul", [x, self._float(self._node("Not", [loud]))]))
        return replace(made, columns=columns, picked=picked)

    def _by_row(self, x: ir.Value) -> _Activation:
        largest = self._maximum(self._node("Abs", [x]), -1, keep=True)
        bounded = self._node("Max", [largest, self._constant("smallest", SMALLEST)])
        scale = self._node("Div", [bounded, self._constant("steps", np.float32(127))])
        rounded = self._node("Round", [self._node("Div", [x, scale])])
        if not self._unsigned:
            return _Activation(self._node("Cast", [rounded], to=ir.DataType.INT8), scale, None)
        raised = self._node("Add", [rounded, self._constant("middle", np.float32(128))])
        zero = self._constant("zero", np.uint8(128))
        return _Activation(self._node("Cast", [raised], to=ir.DataType.UINT8), scale, zero)

    def _scaled(self, integers: ir.Value, scale: ir.Value, scales: ir.Value, *, by_row: bool) -> ir.Value:
        """The integers as the numbers they stand for; by row in a form that ONNX Runtime leaves as it is."""
        if by_row:
            return self._node("Mul", [self._node("Mul", [integers, scales]), scale])
        return self._node("Mul", [integers, self._node("Mul", [scale, scales])])

    def _maximum(self, x: ir.Value, axis: int, *, keep: bool) -> ir.Value:
        if self._opset >= FIRST_OPSET_WITH_AXES_INPUT:
            return self._node("ReduceMax", [x, self._constant("axis", np.array([axis]))], keepdims=int(keep))
        return self._node("ReduceMax", [x], axes=[axis], keepdims=int(keep))

    def _float(self, value: ir.Value) -> ir.Value:
        return self._node("Cast", [value], to=ir.DataType.FLOAT)

    def _node(self, op_type: str, inputs: Sequence[ir.Value], **attributes: int | Sequence[int]) -> ir.Value:
        node = ir.node(op_type, inputs, attributes)
        self._nodes.append(node)
        return node.outputs[0]

    def _constant(self, name: str, array: NDArray[Any] | np.generic) -> ir.Value:
        """A constant that many linears read, stored once."""
        exact = np.asarray(array)
        key = (f"{name} {exact.dtype} {exact.shape}", exact.tobytes())
        if key not in self._constants:
            stem = f"integer_products.{name}"
            count = sum(other.startswith(f"{name} ") for other, _ in self._constants)
            self._constants[key] = products.initializer(self._model, f"{stem}.{count}", exact)
        return self._constants[key]
