"""Codebook tensors become MatMulBnb4, ONNX Runtime's product with NF4 and FP4 weights (domain com.microsoft).

    y = MatMul(x, W)   ->   y = MatMulBnb4(x, B, absmax)      K = in, N = out, quant_type 1 = NF4, 0 = FP4

    B        uint8 [ceil(N * K / 2)]    codes of W^T in one run, the first of two in the high bits
    absmax   of the type of x, [ceil(N * K / block)]

Source: ONNX Runtime, docs/ContribOperators.md, com.microsoft.MatMulBnb4.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from compressor.package import products
from compressor.quantize.codebook import CodebookTensor
from compressor.quantize.flow.linears import Linear

DOMAIN = "com.microsoft"
QUANT_TYPES = {"fp4": 0, "nf4": 1}


def pack(tensor: CodebookTensor) -> NDArray[np.uint8]:
    """Codes as the operator reads them."""
    codes = tensor.q.T.reshape(-1).cpu().numpy()
    codes = np.pad(codes, (0, len(codes) % 2))
    packed: NDArray[np.uint8] = codes[::2] << np.uint8(4) | codes[1::2]
    return packed


def unpack(packed: NDArray[np.uint8], shape: tuple[int, int]) -> NDArray[np.uint8]:
    """The inverse of `pack`: codes [in, out]."""
    rows, columns = shape
    codes = np.stack([packed >> np.uint8(4), packed & np.uint8(15)], -1).reshape(-1)[: rows * columns]
    return codes.reshape(columns, rows).T


def replace_linears(model: ir.Model, linears: list[Linear], load: Callable[[str], CodebookTensor]) -> Mapping[str, int]:
    """Put a MatMulBnb4 in the place of each linear, in place. Returns the bytes of each packed weight."""
    model.opset_imports[DOMAIN] = 1
    return {linear.name: _replace(model, linear, load(linear.name)) for linear in linears}


def _replace(model: ir.Model, linear: Linear, tensor: CodebookTensor) -> int:
    arrays = {"codes": pack(tensor), "absmax": tensor.scale.cpu().numpy().astype(linear.dtype, copy=False)}
    constants = [products.initializer(model, f"{linear.name}.{part}", array) for part, array in arrays.items()]
    rows, columns = linear.shape
    attributes = {"K": rows, "N": columns, "block_size": tensor.block_size, "quant_type": QUANT_TYPES[tensor.book]}
    for one in linear.everywhere:
        inputs = [products.input_of(one), *constants]
        node = ir.node("MatMulBnb4", inputs, attributes, domain=DOMAIN, name=one.node.name)
        products.replace(model, one, [node])
    return sum(array.nbytes for array in arrays.values())
