"""What is true everywhere restricts nothing.

    t = GreaterOrEqual(positions, 0); m = And(t, seen); y = Expand(m, s)     ->     y = Expand(seen, s)

Exporters write so that there is no further mask. `seen` may be narrower than m: the Expand gives the result its size.
"""

from __future__ import annotations

from typing import ClassVar

import onnx_ir as ir

from passes.formulas.masks import hides_nothing
from passes.local import LocalPass, Scope, producer_of, require
from passes.shapes.sizes import broadcast


class TruthElimination(LocalPass):
    """An Expand reads past an And, where one side of it is seen to be true and the other widens to the same shape."""

    operators: ClassVar[frozenset[str]] = frozenset({"Expand"})

    def rewrite(self, node: ir.Node, scope: Scope) -> bool:
        both = producer_of(node.inputs[0], "And")
        sides = list(both.inputs) if both is not None else []
        for side, other in (sides, sides[::-1]) if len(sides) == 2 else ():
            if side is not None and other is not None and hides_nothing(side):
                require(_widens_to(other, node, scope), f"'{other.name}' alone may widen to another shape")
                node.replace_input_with(0, other)
                return True
        return False


def _widens_to(value: ir.Value, expand: ir.Node, scope: Scope) -> bool:
    shape, target = scope.symbols.shape(value), scope.symbols.content(expand.inputs[1])
    if shape is None or target is None:
        return False
    return tuple(broadcast([shape, target])) == scope.symbols.shape(expand.outputs[0])
