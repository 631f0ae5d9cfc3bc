"""To gather the entries at all positions of a grid is to cut the grid out.

    GatherND(x, [(i, j) for i < n for j < m])     ->     Unsqueeze(Slice(x, 0, [n, m]))          x: [N, M]

    i = Reshape(Range(0, n, 1), [-1, 1, 1, 1]), spread to the grid; j = Reshape(Range(0, m, 1), [1, 1, 1, -1]), too;
    indices = Concat(Unsqueeze(i, -1), Unsqueeze(j, -1))

transformers reads the mask of the padding so, for each query and key: ten nodes, and two indices for each entry.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import numpy as np
import onnx_ir as ir

from passes.formulas.matching import scalar
from passes.local import LocalPass, Scope, producer_of, require
from passes.shapes.sizes import ONE, Size, Sizes

FIRST_WITH_AXES_INPUT = 13  # of Unsqueeze; a Slice has its bounds as inputs since opset 10


class _Count(NamedTuple):
    """0, 1, 2, ... up to a limit, along one axis of the grid."""

    limit: ir.Value
    axis: int
    size: Size


class GridSlicing(LocalPass):
    """Replace a GatherND whose indices count from 0, one axis of the data along one axis of the result.

    The axes come in the order of the data's, each in steps of 1, and along all others the indices are the same. Indices
    past the end of the data were an error; the Slice ends there.
    """

    operators: ClassVar[frozenset[str]] = frozenset({"GatherND"})

    def rewrite(self, node: ir.Node, scope: Scope) -> bool:
        data, indices = node.inputs[0], node.inputs[1]
        pieces = producer_of(indices, "Concat")
        shape, grid = scope.symbols.shape(data), scope.symbols.shape(indices)
        if data is None or shape is None or grid is None or pieces is None or scope.opset < FIRST_WITH_AXES_INPUT:
            return False
        found = [_count(value, len(grid) - 1, scope) for value in pieces.inputs]
        counts = [one for one in found if one is not None]
        if not counts or len(counts) < len(found) or node.attributes.get_int("batch_dims", 0) != 0:
            return False
        require(len(counts) == len(shape), f"{len(counts)} indices for {len(shape)} axes of '{data.name}'")
        axes = [one.axis for one in counts]
        require(axes == sorted(set(axes)), f"its indices count along the axes {axes}, which turns the data")
        sizes = {one.axis: one.size for one in counts}
        require(all(one.size.is_count for one in counts), "a limit may be below 0, where a Slice counts from the end")
        whole = all(size == sizes.get(axis, ONE) for axis, size in enumerate(grid[:-1]))
        require(whole, "its indices are repeated along another axis")
        _cut(node, data, counts, len(grid) - 1, scope)
        return True


def _count(value: ir.Value | None, rank: int, scope: Scope) -> _Count | None:
    """What counts, behind the nodes that spread it over a grid of that rank and give it an axis of 1 at the end."""
    outer = producer_of(value, "Unsqueeze", "Reshape")
    spread = outer.inputs[0] if outer is not None else None
    shape = scope.symbols.shape(value)
    if shape is None or shape != (*(scope.symbols.shape(spread) or ()), ONE):
        return None
    expand = producer_of(spread, "Expand")
    narrow = expand.inputs[0] if expand is not None else spread
    inner = scope.symbols.shape(narrow)
    wide = _wide(inner, rank)
    limit = _limit(narrow)
    (size,) = scope.symbols.content(limit) or (None,)
    return None if limit is None or wide is None or size is None else _Count(limit, wide, size)


def _wide(shape: Sizes | None, rank: int) -> int | None:
    """The one axis that is not seen to be 1."""
    wide = [axis for axis, size in enumerate(shape or ()) if size != ONE]
    return wide[0] if shape is not None and len(shape) == rank and len(wide) == 1 else None


def _limit(value: ir.Value | None) -> ir.Value | None:
    """n of Range(0, n, 1), through changes of shape."""
    node = producer_of(value, "Reshape", "Unsqueeze", "Range")
    while node is not None and node.op_type != "Range":
        node = producer_of(node.inputs[0], "Reshape", "Unsqueeze", "Range")
    counts = node is not None and (scalar(node.inputs[0]), scalar(node.inputs[2])) == (0.0, 1.0)
    return node.inputs[1] if node is not None and counts else None


def _cut(node: ir.Node, data: ir.Value, counts: list[_Count], rank: int, scope: Scope) -> None:
    ends = [scope.insert(node, "Reshape", [one.limit, scope.constant(np.array([1]), "one")]) for one in counts]
    end = scope.insert(node, "Concat", list(ends), {"axis": 0}) if len(ends) > 1 else ends[0]
    begin = scope.constant(np.zeros(len(counts), np.int64), "begin")
    cut = scope.insert(node, "Slice", [data, begin, end], like=data)
    added = [axis for axis in range(rank) if axis not in {one.axis for one in counts}]
    if added:
        cut = scope.insert(node, "Unsqueeze", [cut, scope.constant(np.array(added), "added")], like=data)
    scope.replace(node, cut)
