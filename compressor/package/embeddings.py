"""Rounded tables become GatherBlockQuantized, and heads that are the same matrix MatMulNBits over the same codes.

    e = Gather(E, ids)            ->   e = GatherBlockQuantized(Reshape(B), ids, scales[, zero_points])
    y = MatMul(x, Transpose(E))   ->   y = MatMulNBits(x, B, scales[, zero_points])

Both operators lay codes out alike: along a row, the low bits first, so one B [words, blocks, bytes] serves them.
Source: ONNX Runtime, docs/ContribOperators.md, com.microsoft.GatherBlockQuantized (uint8 data: 4 or 8 bits a code).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from compressor.graph.editing import drop_unread, take_over
from compressor.package import matmulnbits, products
from compressor.quantize.embeddings import Table
from compressor.quantize.qtensor import QTensor

DOMAIN = matmulnbits.DOMAIN


def replace_tables(
    model: ir.Model, tables: Sequence[Table], load: Callable[[str], QTensor], accuracy_level: int
) -> Mapping[str, int]:
    """Put codes in the place of every table, in place. Returns the bytes of each."""
    model.opset_imports[DOMAIN] = 1
    return {table.name: _replace(model, table, load(table.name), accuracy_level) for table in tables}


def _replace(model: ir.Model, table: Table, tensor: QTensor, accuracy_level: int) -> int:
    packed = matmulnbits.Packed(tensor)
    constant = table.value.const_value
    assert constant is not None  # held by find_tables
    arrays: dict[str, NDArray[Any]] = {
        "codes": packed.codes,
        "scales": packed.scales.astype(constant.dtype.numpy(), copy=False),
    }
    if packed.zeros is not None:
        arrays["zero_points"] = packed.zeros
    codes, *grid = [products.initializer(model, f"{table.name}.{part}", array) for part, array in arrays.items()]
    for node in table.gathers:
        _gather(model, table, node, packed, [codes, *grid])
    width, words = tensor.shape
    for linear in table.heads:
        attributes = {"K": width, "N": words, "bits": packed.cell_bits, "block_size": packed.block_size}
        attributes["accuracy_level"] = accuracy_level
        inputs = [products.input_of(linear), codes, *grid]
        head = ir.node("MatMulNBits", inputs, attributes, domain=DOMAIN, name=linear.node.name)
        products.replace(model, linear, [head])
    drop_unread(model.graph, table.value)
    return sum(array.nbytes for array in arrays.values())


def _gather(
    model: ir.Model, table: Table, node: ir.Node, packed: matmulnbits.Packed, constants: Sequence[ir.Value]
) -> None:
    codes, *grid = constants
    rows = np.array([packed.shape[0], -1], np.int64)
    shape = products.initializer(model, f"{table.name}.rows.{node.outputs[0].name}", rows)
    flat = ir.node("Reshape", [codes, shape], name=f"{table.name}.rows")
    attributes = {"bits": packed.cell_bits, "block_size": packed.block_size, "gather_axis": 0, "quantize_axis": 1}
    inputs = [flat.outputs[0], node.inputs[1], *grid]
    gathered = ir.node("GatherBlockQuantized", inputs, attributes, domain=DOMAIN, name=node.name)
    take_over(model.graph, node, [flat, gathered])
