"""QTensors become DequantizeLinear before the product: standard operators alone, for any engine.

    y = MatMul(x, W)   ->   y = MatMul(x, DequantizeLinear(codes, scales[, zero_points]))

    codes        int8 or int4 [in, out], zero in the middle; uint8 or uint4 where a zero point lies elsewhere
    scales       float32 [groups, out], axis 0, block_size = group;  [out], axis 1, per channel;  one, per tensor

3- and 2-bit codes lie in 4-bit cells, the smallest that opset 21 has. Never a Transpose behind the DequantizeLinear nor
a Gemm: ONNX Runtime makes its fast product of DequantizeLinear -> MatMul alone (measured, 1.31).
Source: ONNX operator set 21, DequantizeLinear; its last block may be shorter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from compressor import catalog
from compressor.package import products
from compressor.quantize.graph import Linear
from compressor.quantize.qtensor import PER_CHANNEL, QTensor

CELL_BITS = catalog.FORMATS["qdq"].cells
SIGNED: dict[int, Any] = {8: np.int8, 4: ml_dtypes.int4}
UNSIGNED: dict[int, Any] = {8: np.uint8, 4: ml_dtypes.uint4}

Array = NDArray[Any]


def pack(tensor: QTensor) -> dict[str, Array]:
    """The constant inputs of a DequantizeLinear, in their order; no zero points where each is the middle."""
    cell, middle = CELL_BITS[tensor.bits], 2 ** (tensor.bits - 1)
    codes, scale, zero = (part.cpu().numpy() for part in (tensor.q, tensor.scale, tensor.zero))
    arrays: dict[str, Array] = {"scales": _shared(scale, tensor.group_size)}
    if (zero == middle).all():
        return {"codes": (codes.astype(np.int16) - middle).astype(SIGNED[cell]), **arrays}
    zeros = _shared(zero, tensor.group_size).astype(UNSIGNED[cell])
    return {"codes": codes.astype(UNSIGNED[cell]), **arrays, "zero_points": zeros}


def attributes(tensor: QTensor) -> dict[str, int]:
    """How the scales are spread over the codes."""
    if tensor.group_size > 0:
        return {"axis": 0, "block_size": tensor.group_size}
    return {"axis": 1} if tensor.group_size == PER_CHANNEL else {}


def replace_linears(model: ir.Model, linears: list[Linear], load: Callable[[str], QTensor]) -> Mapping[str, int]:
    """Put a DequantizeLinear and a MatMul in the place of each linear; returns the bytes of each packed weight."""
    return {linear.name: _replace(model, linear, load(linear.name)) for linear in linears}


def _replace(model: ir.Model, linear: Linear, tensor: QTensor) -> int:
    constants = [products.initializer(model, f"{linear.name}.{part}", array) for part, array in pack(tensor).items()]
    dequantized = ir.node("DequantizeLinear", constants, attributes(tensor), name=f"{linear.name}.dequantized")
    product = ir.node("MatMul", [products.input_of(linear), dequantized.outputs[0]], name=linear.node.name)
    products.replace(model, linear, [dequantized, product])
    return sum(constant.const_value.nbytes for constant in constants if constant.const_value is not None)


def _shared(values: Array, group_size: int) -> Array:
    """[groups, out] in the shape that the operator wants: a vector per channel, one number per tensor."""
    if group_size > 0:
        return values
    shared: Array = values[0] if group_size == PER_CHANNEL else values[0, 0].reshape(())
    return shared
