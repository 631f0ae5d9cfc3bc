"""Rounded tables in standard operators: rows of codes are gathered with their scales, and only they are dequantized.

    e = Gather(E, ids)            ->   e = DequantizeLinear(Gather(codes, ids), Gather(scales, ids), Gather(zeros, ids))
    y = MatMul(x, Transpose(E))   ->   y = MatMul(x, DequantizeLinear(codes of the head, its scales))

No standard operator gathers 4-bit cells. Two codes lie in a byte, the first half of a row in the low bits and the
second half in the high ones, and are taken apart once gathered. A head has codes of its own, [in, out], for engines
make their fast product of that alone: a table that is a head too is stored twice, at 8 bits in half its float bytes.
Source: ONNX operator set 21, DequantizeLinear.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from compressor.graph.editing import drop_unread, take_over
from compressor.package import products, qdq
from compressor.quantize.embeddings import Table
from compressor.quantize.qtensor import QTensor

HALF_BYTE = 4


def replace_tables(model: ir.Model, tables: Sequence[Table], load: Callable[[str], QTensor]) -> Mapping[str, int]:
    """Put codes in the place of every table, in place. Returns the bytes of each."""
    return {table.name: _replace(model, table, load(table.name)) for table in tables}


def rows(tensor: QTensor) -> dict[str, NDArray[Any]]:
    """Codes, scales and zero points of a table's rows: [words, width or half of it], [words, groups] twice."""
    codes, scales, zeros = (
        np.ascontiguousarray(part.cpu().numpy().T) for part in (tensor.q, tensor.scale, tensor.zero)
    )
    if tensor.bits == HALF_BYTE:
        low, high = np.split(codes, 2, axis=1)
        codes = low | high << np.uint8(HALF_BYTE)
    return {"codes": codes, "scales": scales, "zero_points": zeros}


def _replace(model: ir.Model, table: Table, tensor: QTensor) -> int:
    constant = table.value.const_value
    assert constant is not None  # held by find_tables
    arrays = rows(tensor)
    arrays["scales"] = arrays["scales"].astype(constant.dtype.numpy(), copy=False)  # it decides the type of the rows
    constants = [products.initializer(model, f"{table.name}.rows.{part}", array) for part, array in arrays.items()]
    for node in table.gathers:
        _gather(model, node, constants, tensor)
    heads = sum(qdq.replace(model, linear, tensor) for linear in table.heads)
    drop_unread(model.graph, table.value)
    return heads + sum(array.nbytes for array in arrays.values())


def _gather(model: ir.Model, node: ir.Node, constants: Sequence[ir.Value], tensor: QTensor) -> None:
    gathers = [ir.node("Gather", [one, node.inputs[1]], {"axis": 0}) for one in constants]
    codes, scales, zeros = (one.outputs[0] for one in gathers)
    apart = _taken_apart(model, codes) if tensor.bits == HALF_BYTE else []
    codes = apart[-1].outputs[0] if apart else codes
    attributes = {"axis": -1, "block_size": tensor.group_size}
    dequantized = ir.node("DequantizeLinear", [codes, scales, zeros], attributes, name=node.name)
    take_over(model.graph, node, [*gathers, *apart, dequantized])


def _taken_apart(model: ir.Model, packed: ir.Value) -> list[ir.Node]:
    """Two codes of every byte, the low bits first along the row."""
    mask, shift = (_byte(model, value) for value in (2**HALF_BYTE - 1, HALF_BYTE))
    low = ir.node("BitwiseAnd", [packed, mask])
    high = ir.node("BitShift", [packed, shift], {"direction": "RIGHT"})
    return [low, high, ir.node("Concat", [low.outputs[0], high.outputs[0]], {"axis": -1})]


def _byte(model: ir.Model, value: int) -> ir.Value:
    name = f"compress.byte.{value}"
    return model.graph.initializers.get(name) or products.initializer(model, name, np.array(value, np.uint8))
