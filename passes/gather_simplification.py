"""A GatherND by one index is a Gather, which copies whole rows.

y = GatherND(table, Unsqueeze(rows, -1))     ->     y = Gather(table, rows)
"""

from __future__ import annotations

from typing import ClassVar

import onnx_ir as ir

from passes.local import LocalPass, Scope, producer_of
from passes.shapes.sizes import ONE


class GatherSimplification(LocalPass):
    """A GatherND whose indices are one number each, given an axis of 1 for it, becomes a Gather of the first axis."""

    operators: ClassVar[frozenset[str]] = frozenset({"GatherND"})

    def rewrite(self, node: ir.Node, scope: Scope) -> bool:
        data, outer = node.inputs[0], producer_of(node.inputs[1], "Unsqueeze", "Reshape")
        rows = outer.inputs[0] if outer is not None else None
        inner, whole = scope.symbols.shape(rows), scope.symbols.shape(node.inputs[1])
        if data is None or inner is None or whole != (*inner, ONE) or node.attributes.get_int("batch_dims", 0) != 0:
            return False
        result = node.outputs[0]
        return scope.replace(
            node, scope.insert(node, "Gather", [data, rows], {"axis": 0}, like=data, shape=result.shape)
        )
