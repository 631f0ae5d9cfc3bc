"""QTensors become DequantizeLinear before the product: standard operators alone, for any engine.

    y = MatMul(x, W)   ->   y = MatMul(x, DequantizeLinear(codes, scales[, zero_points]))

Never a Transpose behind the DequantizeLinear nor a Gemm: ONNX Runtime makes its fast product of
DequantizeLinear -> MatMul alone (measured, 1.31). How codes and scales lie: `dequantized.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx_ir as ir

from compressor.package import convolutions, dequantized, products
from compressor.quantize.flow.linears import Linear
from compressor.quantize.qtensor import QTensor


def replace_linears(model: ir.Model, linears: list[Linear], load: Callable[[str], QTensor]) -> Mapping[str, int]:
    """Put a DequantizeLinear and a MatMul in the place of each linear; returns the bytes of each packed weight."""
    return {linear.name: replace(model, linear, load(linear.name)) for linear in linears}


def replace(model: ir.Model, linear: Linear, tensor: QTensor) -> int:
    """Put a DequantizeLinear and a MatMul in the place of one linear; returns the bytes of its packed weight."""
    if linear.window is not None:
        return convolutions.replace(model, linear, tensor)
    arrays = dequantized.constants(tensor)
    arrays["scales"] = arrays["scales"].astype(linear.dtype, copy=False)  # it decides the type of the product
    inputs = [products.initializer(model, f"{linear.name}.{part}", array) for part, array in arrays.items()]
    for at, one in enumerate(linear.everywhere):  # ONNX Runtime fuses a DequantizeLinear that one product reads
        name = f"{linear.name}.dequantized" + (f".{at}" if at else "")
        weight = ir.node("DequantizeLinear", inputs, dequantized.attributes(tensor), name=name)
        product = ir.node("MatMul", [products.input_of(one), weight.outputs[0]], name=one.node.name)
        products.replace(model, one, [weight, product])
    return sum(one.const_value.nbytes for one in inputs if one.const_value is not None)
