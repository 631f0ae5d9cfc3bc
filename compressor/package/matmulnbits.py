"""QTensors become MatMulNBits, ONNX Runtime's weight-only product (domain com.microsoft).

    y = MatMul(x, W)   ->   y = MatMulNBits(x, B, scales[, zero_points])      K = in, N = out

    B            uint8 [N, blocks, block * bits / 8]   codes along K, the low bits first
    scales       float32 [N, blocks]
    zero_points  uint8 [N, ceil(blocks * bits / 8)]    left out where every one is the middle of the grid

Source: ONNX Runtime, docs/ContribOperators.md, com.microsoft.MatMulNBits. 3-bit codes lie in 4-bit cells, moved so that
the middle of their grid is the middle of the cell. A group that spans a whole column is stored in blocks that repeat
its scale, since a block has at most 256 rows (512 returned zeros: microsoft/onnxruntime issue 28551).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray

from compressor.quantize.graph import Linear
from compressor.quantize.qtensor import PER_CHANNEL, QTensor

DOMAIN = "com.microsoft"
CELL_BITS = {8: 8, 4: 4, 3: 4}  # bits of a code -> bits it is stored in
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
    repeat = blocks if tensor.group_size == PER_CHANNEL else 1
    scale = np.repeat(tensor.scale.cpu().numpy().T, repeat, 1)
    zero = np.repeat(tensor.zero.cpu().numpy().T, repeat, 1) + np.uint8(shift)
    codes = np.repeat(zero, block, 1)
    codes[:, :rows] = tensor.q.cpu().numpy().T + np.uint8(shift)
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
    wanted = REPEATED_BLOCK if tensor.group_size == PER_CHANNEL else tensor.group_size
    enough = 1 << max(tensor.shape[0] - 1, 1).bit_length()
    return max(SMALLEST_BLOCK, min(wanted, enough))


def replace_linears(
    model: ir.Model, linears: list[Linear], load: Callable[[str], QTensor], accuracy_level: int
) -> Mapping[str, int]:
    """Put a MatMulNBits in the place of each linear, in place; `load` brings a weight's QTensor by its name.

    Returns the bytes of each packed weight.
    """
    model.opset_imports[DOMAIN] = 1
    return {linear.name: _replace(model, linear, pack(load(linear.name)), accuracy_level) for linear in linears}


def _replace(model: ir.Model, linear: Linear, packed: Packed, accuracy_level: int) -> int:
    graph, (rows, columns) = model.graph, linear.shape
    arrays: dict[str, NDArray[Any]] = {"codes": packed.codes, "scales": packed.scales}
    if packed.zeros is not None:
        arrays["zero_points"] = packed.zeros
    constants = [_initializer(model, f"{linear.name}.{part}", array) for part, array in arrays.items()]
    attributes = {"K": rows, "N": columns, "bits": packed.cell_bits, "block_size": packed.block_size}
    node = ir.node(
        "MatMulNBits",
        [linear.x, *constants],
        attributes | {"accuracy_level": accuracy_level},
        domain=DOMAIN,
        name=linear.node.name,
    )
    y, product = linear.y, node.outputs[0]
    name, before = y.name, linear.node.inputs[1]
    product.type, product.shape = y.type, y.shape
    graph.insert_before(linear.node, node)
    if linear.bias is not None:
        added = ir.node("Add", [product, linear.bias])
        added.outputs[0].type, added.outputs[0].shape = y.type, y.shape
        graph.insert_before(linear.node, added)
        product = added.outputs[0]
    ir.convenience.replace_all_uses_with(y, product, replace_graph_outputs=True)
    graph.remove(linear.node, safe=True)
    product.name = name
    _drop_unused(graph, before)
    return sum(array.nbytes for array in arrays.values())


def _drop_unused(graph: ir.Graph, value: ir.Value | None) -> None:
    """Remove a weight, and the Transpose before it, once nobody reads them."""
    if value is None or value.uses() or value.is_graph_output():
        return
    producer = value.producer()
    if producer is None:
        graph.initializers.pop(str(value.name), None)
        return
    source = producer.inputs[0]
    graph.remove(producer, safe=True)
    _drop_unused(graph, source)


def _initializer(model: ir.Model, name: str, array: NDArray[np.generic]) -> ir.Value:
    value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
    model.graph.register_initializer(value)
    return value


def _pack_cells(values: Bytes, bits: int) -> Bytes:
    """[rows, n] codes -> [rows, ceil(n * bits / 8)] bytes, the first code in the low bits."""
    if bits == 8:
        return np.ascontiguousarray(values)
    padded = np.pad(values, ((0, 0), (0, values.shape[1] % 2)))
    return np.ascontiguousarray(padded[:, ::2] | (padded[:, 1::2] << 4))


def _unpack_cells(packed: Bytes, bits: int) -> Bytes:
    if bits == 8:
        return packed
    return np.stack([packed & 15, packed >> 4], -1).reshape(packed.shape[0], -1)
