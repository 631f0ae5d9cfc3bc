"""QTensors become MatMulNBits, ONNX Runtime's weight-only product (domain com.microsoft).

    y = MatMul(x, W)   ->   y = MatMulNBits(x, B, scales[, zero_points])      K = in, N = out

    B            uint8 [N, blocks, block * bits / 8]   codes along K, the low bits first
    scales       float32 [N, blocks]
    zero_points  uint8 [N, ceil(blocks * bits / 8)]    left out where every one is the middle of the grid

Source: ONNX Runtime, docs/ContribOperators.md, com.microsoft.MatMulNBits. 3-bit codes lie in 4-bit cells, moved so that
the middle of their grid is the middle of the cell. A group that spans a column or the matrix is stored in blocks
that repeat its scale, since a block has at most 256 rows (512 returned zeros: microsoft/onnxruntime issue 28551).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray

from compressor import catalog
from compressor.package import convolutions, products
from compressor.quantize.graph import Linear
from compressor.quantize.qtensor import QTensor

DOMAIN = "com.microsoft"
CELL_BITS = catalog.FORMATS["matmulnbits"].cells
SMALLEST_BLOCK, REPEATED_BLOCK = 16, 128

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Packed:
    """The constant inputs of one MatMulNBits node."""

    codes: Bytes  # [N, blocks, bytes]
    scales: NDArray[np.float32]  # [N, blocks]
    zeros: Bytes | None  # [N, bytes]
    block_size: int
    cell_bits: int


def pack(tensor: QTensor) -> Packed:
    """Lay a QTensor out as the operator reads it; the last block is filled up with zero points, which weigh nothing."""
    rows, columns = tensor.shape
    cell_bits, block = CELL_BITS[tensor.bits], block_size(tensor)
    blocks = -(-rows // block)
    shift = 2 ** (cell_bits - 1) - 2 ** (tensor.bits - 1)
    repeat = 1 if tensor.group_size > 0 else blocks
    scale = np.repeat(tensor.scale.cpu().numpy().T, repeat, 1)
    zero = np.repeat(tensor.zero.cpu().numpy().T, repeat, 1) + np.uint8(shift)
    codes = tensor.q.cpu().T.contiguous().numpy() + np.uint8(shift)
    if rows < blocks * block:
        codes = np.concatenate([codes, np.repeat(zero, block, 1)[:, rows:]], 1)
    middle = bool((zero == 2 ** (cell_bits - 1)).all())
    return Packed(
        _pack_cells(codes, cell_bits).reshape(columns, blocks, -1),
        np.ascontiguousarray(scale, np.float32),
        None if middle else _pack_cells(zero, cell_bits),
        block,
        cell_bits,
    )


def unpack(packed: Packed, tensor: QTensor) -> QTensor:
    """The inverse of `pack`, for a tensor of the same shape, bits and group: what an engine will read, bit for bit."""
    rows, columns = tensor.shape
    shift = 2 ** (packed.cell_bits - 1) - 2 ** (tensor.bits - 1)
    blocks = packed.scales.shape[1]
    codes = _unpack_cells(packed.codes.reshape(columns, -1), packed.cell_bits)[:, :rows] - np.uint8(shift)
    zero = np.full((columns, blocks), 2 ** (packed.cell_bits - 1), np.uint8)
    if packed.zeros is not None:
        zero = _unpack_cells(packed.zeros, packed.cell_bits)[:, :blocks]
    groups = tensor.scale.shape[0]
    scale, zero = packed.scales[:, :groups], zero[:, :groups] - np.uint8(shift)
    q, scales, zeros = (torch.from_numpy(np.ascontiguousarray(part.T)) for part in (codes, scale, zero))
    return QTensor(q, scales, zeros, tensor.bits, tensor.group_size)


def block_size(tensor: QTensor) -> int:
    """Rows of a block: the group's, no larger than the matrix needs, a power of two from 16."""
    wanted = tensor.group_size if tensor.group_size > 0 else REPEATED_BLOCK
    enough = 1 << max(tensor.shape[0] - 1, 1).bit_length()
    return max(SMALLEST_BLOCK, min(wanted, enough))


def replace_linears(
    model: ir.Model, linears: list[Linear], load: Callable[[str], QTensor], accuracy_level: int
) -> Mapping[str, int]:
    """Put a MatMulNBits in the place of each linear, in place; `load` brings a weight's QTensor by its name.

    Returns the bytes of each packed weight.
    """
    model.opset_imports[DOMAIN] = 1
    return {linear.name: _replace(model, linear, load(linear.name), accuracy_level) for linear in linears}


def _replace(model: ir.Model, linear: Linear, tensor: QTensor, accuracy_level: int) -> int:
    if linear.window is not None:  # the operator multiplies matrices alone
        return convolutions.replace(model, linear, tensor)
    packed = pack(tensor)
    arrays: dict[str, NDArray[Any]] = {"codes": packed.codes, "scales": packed.scales.astype(linear.dtype, copy=False)}
    if packed.zeros is not None:
        arrays["zero_points"] = packed.zeros
    constants = [products.initializer(model, f"{linear.name}.{part}", array) for part, array in arrays.items()]
    rows, columns = linear.shape
    attributes = {"K": rows, "N": columns, "bits": packed.cell_bits, "block_size": packed.block_size}
    attributes["accuracy_level"] = accuracy_level
    node = ir.node(
        "MatMulNBits", [products.input_of(linear), *constants], attributes, domain=DOMAIN, name=linear.node.name
    )
    products.replace(model, linear, [node])
    return sum(array.nbytes for array in arrays.values())


def _pack_cells(values: Bytes, bits: int) -> Bytes:
    """[rows, n] codes -> [rows, ceil(n * bits / 8)] bytes, the first code in the low bits."""
    cells = 8 // bits
    missing = -values.shape[1] % cells
    whole = np.ascontiguousarray(np.pad(values, ((0, 0), (0, missing))) if missing else values)
    words = whole.view(f"<u{cells}")  # a code in every byte: each is moved down to its bits of the lowest byte
    return functools.reduce(np.bitwise_or, (words >> cell * (8 - bits) for cell in range(cells))).astype(np.uint8)


def _unpack_cells(packed: Bytes, bits: int) -> Bytes:
    cells = [packed >> np.uint8(shift) & np.uint8(2**bits - 1) for shift in range(0, 8, bits)]
    return np.stack(cells, -1).reshape(packed.shape[0], -1)
