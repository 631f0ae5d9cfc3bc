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

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray

from compressor import catalog
from compressor.package import convolutions, products
from compressor.quantize.flow.linears import Linear
from compressor.quantize.machine.threads import a_weight_each
from compressor.quantize.qtensor import QTensor

DOMAIN = "com.microsoft"
CELL_BITS = catalog.FORMATS["matmulnbits"].cells
SMALLEST_BLOCK, REPEATED_BLOCK = 16, 128

Bytes = NDArray[np.uint8]
T = TypeVar("T", bound=np.generic)


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
    scale = np.repeat(tensor.scale.cpu().numpy(), repeat, 0)
    zero = np.repeat(tensor.zero.cpu().numpy(), repeat, 0) + np.uint8(shift)
    codes = tensor.q.cpu().numpy()
    codes = codes + np.uint8(shift) if shift else codes
    if rows < blocks * block:
        codes = np.concatenate([codes, np.repeat(zero, block, 0)[rows:]])
    middle = bool((zero == 2 ** (cell_bits - 1)).all())
    return Packed(
        _turned(_pack_cells(codes, cell_bits)).reshape(columns, blocks, -1),
        _turned(scale),
        None if middle else _turned(_pack_cells(zero, cell_bits)),
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

    def prepared(linear: Linear) -> QTensor | Packed:
        tensor = load(linear.name)
        return pack(tensor) if linear.window is None else tensor

    with a_weight_each() as pool:
        made = zip(linears, pool.map(prepared, linears), strict=True)
        return {linear.name: _replace(model, linear, one, accuracy_level) for linear, one in made}


def _replace(model: ir.Model, linear: Linear, packed: QTensor | Packed, accuracy_level: int) -> int:
    if isinstance(packed, QTensor):  # of a convolution: the operator multiplies matrices alone
        return convolutions.replace(model, linear, packed)
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
    """[n, columns] codes -> [ceil(n * bits / 8), columns] bytes, the first code in the low bits."""
    cells = 8 // bits
    missing = -len(values) % cells
    whole = np.pad(values, ((0, missing), (0, 0))) if missing else values
    first, *others = (whole[cell::cells] for cell in range(cells))
    packed = first.copy() if others else first
    for cell, codes in enumerate(others, 1):
        packed |= codes << np.uint8(cell * bits)
    return packed


def _turned(matrix: NDArray[T]) -> NDArray[T]:
    """The transpose, laid out anew by torch, which goes over it in blocks: numpy takes seven times as long."""
    return torch.from_numpy(matrix).T.contiguous().numpy()


def _unpack_cells(packed: Bytes, bits: int) -> Bytes:
    cells = [packed >> np.uint8(shift) & np.uint8(2**bits - 1) for shift in range(0, 8, bits)]
    return np.stack(cells, -1).reshape(packed.shape[0], -1)
