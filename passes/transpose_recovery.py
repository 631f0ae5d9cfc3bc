"""A Transpose between two Reshapes moves axes that were folded for it and unfolded after it: one Transpose does so.

   r = Reshape(x, [1024, 3]); t = Transpose(r, [1, 0]); y = Reshape(t, [3, 1, 32, 32])        x: [1, 32, 32, 3]
-> y = Transpose(x, [3, 0, 1, 2])
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import onnx_ir as ir

from passes.local import LocalPass, Scope, producer_of, require, sole_reader
from passes.reshape_merging import FAMILY
from passes.shapes.sizes import ONE, Sizes, product
from passes.transpose_merging import order_of


class TransposeRecovery(LocalPass):
    """The last of the three becomes a Transpose of the first one's input.

    Each axis between the Reshapes is a run of whole axes of the input, and the result's shape is that of the input,
    run by run in the new order: what splits an axis is no mere Transpose. Nobody else reads the two in the middle.
    """

    operators: ClassVar[frozenset[str]] = frozenset(FAMILY)

    def rewrite(self, node: ir.Node, scope: Scope) -> bool:
        transpose = producer_of(node.inputs[0], "Transpose")
        fold = producer_of(transpose.inputs[0], *FAMILY) if transpose is not None else None
        if transpose is None or fold is None or fold.inputs[0] is None:
            return False
        source, order = fold.inputs[0], order_of(transpose, scope)
        before, between, after = map(scope.symbols.shape, (source, fold.outputs[0], node.outputs[0]))
        if order is None or before is None or between is None or after is None:
            return False
        alone = sole_reader(fold.outputs[0]) and sole_reader(transpose.outputs[0])
        require(alone, "others read what stands between the two Reshapes")
        runs = _runs(before, between)
        require(runs is not None, "the Reshape before the Transpose splits an axis")
        axes = [axis for place in order for axis in (runs or [])[place]]
        require(tuple(before[axis] for axis in axes) == after, "the Reshape behind the Transpose gives other axes")
        _become_transpose(node, source, axes)
        return True


def _runs(before: Sizes, between: Sizes) -> list[list[int]] | None:
    """For each axis between, the axes before that it is the product of."""
    runs: list[list[int]] = []
    at = 0
    for size in between:
        start = at
        while product(before[start:at]) != size or (at == start and before[at : at + 1] == (ONE,)):
            if at == len(before):
                return None
            at += 1
        runs.append(list(range(start, at)))
    if not runs or any(size != ONE for size in before[at:]):
        return None
    runs[-1].extend(range(at, len(before)))
    return runs


def _become_transpose(node: ir.Node, source: ir.Value, axes: Sequence[int]) -> None:
    node.op_type = "Transpose"
    node.attributes.clear()
    node.resize_inputs(1)
    node.replace_input_with(0, source)
    node.attributes["perm"] = ir.AttrInt64s("perm", axes)
