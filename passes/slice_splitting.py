"""Slices that cut one value into pieces, without a gap and without an overlap, are one Split.

   q = Slice(x, 0, 64, axis); k = Slice(x, 64, 128, axis); v = Slice(x, 128, 192, axis)      x: [N, S, 192]
-> q, k, v = Split(x, [64, 64, 64], axis)
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import numpy as np
import onnx_ir as ir

from passes.editing.replacing import drop, hand_over
from passes.local import LocalPass, Scope, require
from passes.shapes.size_rules import slice_bounds

FIRST_SPLIT_WITH_SIZES = 2
FIRST_SPLIT_WITH_INPUT = 13  # before, the sizes were an attribute


class _Piece(NamedTuple):
    start: int
    end: int
    node: ir.Node


class SliceSplitting(LocalPass):
    """Replace all Slices of a value along one axis by a Split, where they tile it in steps of 1.

    The size of the axis is known, and all of them stand in one graph. A piece that is read twice is one by then.
    """

    operators: ClassVar[frozenset[str]] = frozenset({"Slice"})

    def rewrite(self, node: ir.Node, scope: Scope) -> bool:
        found = _cut(node, scope)
        data = node.inputs[0]
        if found is None or data is None or scope.opset < FIRST_SPLIT_WITH_SIZES:
            return False
        axis, size, _ = found
        readers = [one for one in data.consumers() if one.op_type == "Slice" and one.domain == ""]
        cuts = [(one, _cut(one, scope)) for one in readers if one.inputs[0] is data]
        pieces = [_Piece(*cut[2], one) for one, cut in cuts if cut is not None and cut[0] == axis]
        pieces.sort(key=lambda piece: (piece.start, piece.end))
        if len(pieces) < 2 or pieces[0].node is not node:
            return False
        require(all(one.node.graph is node.graph for one in pieces), "its other pieces stand in other graphs")
        borders = [0, *(piece.end for piece in pieces)]
        tiles = borders[:-1] == [piece.start for piece in pieces] and borders[-1] == size
        require(tiles, f"the pieces {[(one.start, one.end) for one in pieces]} do not tile the {size} entries")
        _split(data, axis, pieces, scope)
        return True


def _cut(node: ir.Node, scope: Scope) -> tuple[int, int, tuple[int, int]] | None:
    """(axis, size of the axis, (start, end)) of a Slice along one axis in steps of 1."""
    bounds, shape = slice_bounds(node, scope.symbols), scope.symbols.shape(node.inputs[0])
    if bounds is None or len(bounds) != 1 or not shape or bounds[0][3] != 1:
        return None
    axis, start, end, _ = bounds[0]
    size = shape[axis].known
    if size is None:
        return None
    start, end, _ = slice(start, end).indices(size)
    return (axis % len(shape), size, (start, end)) if start < end else None


def _split(data: ir.Value, axis: int, pieces: list[_Piece], scope: Scope) -> None:
    sizes = [piece.end - piece.start for piece in pieces]
    inputs: list[ir.Value | None] = [data]
    attributes: dict[str, int | list[int]] = {"axis": axis}
    if scope.opset < FIRST_SPLIT_WITH_INPUT:
        attributes["split"] = sizes
    else:
        inputs.append(scope.constant(np.array(sizes, np.int64), f"{data.name}_sizes"))
    split = ir.node("Split", inputs, attributes, num_outputs=len(pieces))
    nodes = [piece.node for piece in pieces]
    first = next(one for one in nodes[0].graph or () if one in nodes)
    first.prepend(split)
    for piece, output in zip(pieces, split.outputs, strict=True):
        hand_over(piece.node.outputs[0], output, scope.names)
        drop(piece.node)
