"""Tables of embeddings, rounded on request: a Gather reads rows of codes, and a head that is the same matrix does too.

    e = Gather(E, ids)   y = MatMul(x, Transpose(E))        E [words, width], groups along the width

No data says which rows matter to a Gather, so a table is rounded to the grid, its scales searched by squared error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch

from compressor.quantize import store
from compressor.quantize.constants import constant
from compressor.quantize.flow.linears import Linear, as_linear
from compressor.quantize.qtensor import Grid
from compressor.quantize.rtn import RoundToNearest
from compressor.quantize.statistics import proportion

GROUPS = (32, 64, 16)  # the first that divides the width: an operator for tables has no shorter last group


@dataclass(frozen=True)
class Table:
    """A constant matrix whose rows are gathered, with the products that read it transposed."""

    value: ir.Value = field(repr=False)
    gathers: tuple[ir.Node, ...] = field(repr=False)
    heads: tuple[Linear, ...] = field(repr=False)

    @property
    def name(self) -> str:
        return str(self.value.name)

    @property
    def width(self) -> int:
        assert self.value.const_value is not None  # held by _tables
        return int(self.value.const_value.shape.numpy()[1])

    @property
    def group_size(self) -> int | None:
        return next((size for size in GROUPS if self.width % size == 0), None)


def find_tables(model: ir.Model) -> list[Table]:
    """Matrices that nothing but Gathers of rows and products with their transpose reads, in the order of the graph."""
    return [table for table in _tables(model) if table.group_size]


def misfits(model: ir.Model) -> dict[str, str]:
    """Tables that stay as they are, and why."""
    return {one.name: f"{one.width} wide, no multiple of {min(GROUPS)}" for one in _tables(model) if not one.group_size}


def _tables(model: ir.Model) -> list[Table]:
    linears = [linear for node in model.graph if (linear := as_linear(node)) and linear.transposed]
    found = []
    for value in model.graph.initializers.values():
        array = constant(value)
        gathers = tuple(use.node for use in value.uses() if _gathers_rows(use.node, use.idx))
        heads = tuple(linear for linear in linears if linear.weight is value)
        readers = {*gathers, *(linear.holder[0] for linear in heads)}
        if array is not None and array.ndim == 2 and gathers and {use.node for use in value.uses()} == readers:
            found.append(Table(value, gathers, heads))
    return found


def round_tables(tables: Sequence[Table], grid: Grid, folder: Path) -> list[dict[str, Any]]:
    """Round every table into `folder`. Returns the layer table."""
    return [_row(table, grid, folder) for table in tables]


def _row(table: Table, grid: Grid, folder: Path) -> dict[str, Any]:
    array, size = constant(table.value), table.group_size
    assert array is not None  # held by find_tables
    assert size is not None  # held by find_tables
    weight = torch.from_numpy(array.astype("float32")).T
    tensor = RoundToNearest(grid, size).solve(weight)
    store.write(folder, table.name, tensor)
    power, lost = (float(one.square().sum(dtype=torch.float64)) for one in (weight, tensor.dequantize() - weight))
    return {
        "layer": table.name,
        "in": weight.shape[0],
        "out": weight.shape[1],
        "bits": grid.bits,
        "group_size": size,
        "weight_error": proportion(lost, power),
        "fallback": "",
        "flags": [] if bool(tensor.scale.isfinite().all()) else ["not finite"],
    }


def _gathers_rows(node: ir.Node, at: int) -> bool:
    return node.op_type == "Gather" and not node.domain and at == 0 and node.attributes.get_int("axis", 0) == 0
