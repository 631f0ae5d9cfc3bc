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
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray

from compressor import catalog
from compressor.package import convolutions, products
from compressor.quantize.flow.linears import Linear
from compressor.quantize.qtensor import QTensor

DOMAIN = "com.microsoft"
CELL_BITS = catalog.FORMATS["matmulnbits"].cells
SMALLEST_BLOCK, REPEATED_BLOCK = 16, 128

Bytes = NDArray[np.uint8]
T = TypeVar("T", bound=np.generic)


@dataclass(frozen=True)
class Packed:
    """A QTensor as the operator reads it: the constant inputs of one node, each laid out when it is asked for."""

    tensor: QTensor

    @property
    def cell_bits(self) -> int:
        return CELL_BITS[self.tensor.bits]

    @property
    def block_size(self) -> int:
        """Rows of a block: the group's, no larger than the matrix needs, a power of two from 16."""
        wanted = self.tensor.group_size if self.tensor.group_size > 0 else REPEATED_BLOCK
        enough = 1 << max(self.tensor.shape[0] - 1, 1).bit_length()
        return max(SMALLEST_BLOCK, min(wanted, enough))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the codes: [N, blocks, bytes]."""
        rows, columns = self.tensor.shape
        return columns, -(-rows // self.block_size), self.block_size * self.cell_bits // 8

    @cached_property
    def codes(self) -> Bytes:
        """[N, blocks, bytes]; the last block is filled up with zero points, which weigh nothing."""
        codes = self.tensor.q.cpu().numpy()
        if missing := self.shape[1] * self.block_size - len(codes):
            codes = np.concatenate([codes, np.repeat(self.tensor.zero[-1:].cpu().numpy(), missing, 0)])
        codes = codes + self._shift if self._shift else codes
        return _turned(_pack_cells(codes, self.cell_bits)).reshape(self.shape)

    @cached_property
    def scales(self) -> NDArray[np.float32]:
        """[N, blocks]"""
        return _turned(self._of_blocks(self.tensor.scale))

    @cached_property
    def zeros(self) -> Bytes | None:
        """[N, bytes]; None where every one is the middle of the grid."""
        if bool((self.tensor.zero == 2 ** (self.tensor.bits - 1)).all()):
            return None
        return _turned(_pack_cells(self._of_blocks(self.tensor.zero) + self._shift, self.cell_bits))

    @property
    def _shift(self) -> np.uint8:
        """From the middle of the grid to that of the cell."""
        return np.uint8(2 ** (self.cell_bits - 1) - 2 ** (self.tensor.bits - 1))

    def _of_blocks(self, of_groups: torch.Tensor) -> NDArray[Any]:
        """What each group has, for each block."""
        repeat = 1 if self.tensor.group_size > 0 else self.shape[1]
        return np.repeat(of_groups.cpu().numpy(), repeat, 0)


def unpack(packed: Packed, tensor: QTensor) -> QTensor:
    """The inverse of Packed, for a tensor of the same shape, bits and group: what an engine will read, bit for bit."""
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


def replace_linears(
    model: ir.Model, linears: list[Linear], load: Callable[[str], QTensor], accuracy_level: int
) -> Mapping[str, int]:
    """Put a MatMulNBits in the place of each linear, in place; `load` brings a weight's QTensor by its name.

    Once more whenever the weight is read: none is held. Returns the bytes of each packed weight.
    """
    model.opset_imports[DOMAIN] = 1
    return {linear.name: _replace(model, linear, load, accuracy_level) for linear in linears}


def _replace(model: ir.Model, linear: Linear, load: Callable[[str], QTensor], accuracy_level: int) -> int:
    name, dtype = linear.name, linear.dtype
    packed = Packed(load(name))
    if linear.window is not None:  # of a convolution: the operator multiplies matrices alone
        return convolutions.replace(model, linear, packed.tensor)

    def codes() -> Bytes:
        return Packed(load(name)).codes

    def scales() -> NDArray[Any]:
        return Packed(load(name)).scales.astype(dtype, copy=False)

    constants = [
        products.lazy_initializer(model, f"{name}.codes", codes, np.dtype(np.uint8), packed.shape),
        products.lazy_initializer(model, f"{name}.scales", scales, dtype, packed.shape[:2]),
    ]
    if packed.zeros is not None:
        constants.append(products.initializer(model, f"{name}.zero_points", packed.zeros))
    rows, columns = linear.shape
    attributes = {"K": rows, "N": columns, "bits": packed.cell_bits, "block_size": packed.block_size}
    attributes["accuracy_level"] = accuracy_level
    for one in linear.everywhere:
        inputs = [products.input_of(one), *constants]
        node = ir.node("MatMulNBits", inputs, attributes, domain=DOMAIN, name=one.node.name)
        products.replace(model, one, [node])
    return sum(one.const_value.nbytes for one in constants if one.const_value is not None)


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
