"""An Expand before an operator that broadcasts by itself widens the same value twice.

e = Expand(x, [2, 3, 4]); y = Add(e, z)     ->     y = Add(x, z)          z: [2, 3, 4]
"""

from __future__ import annotations

from typing import ClassVar

import onnx_ir as ir

from passes.local import LocalPass, Scope, producer_of, require
from passes.shapes.sizes import broadcast

FIRST_THAT_ALL_BROADCAST = 8  # Max, Min, Mean and Sum came last

# fmt: off
WIDENING = frozenset({
    "Add", "And", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Mean", "Min", "Mod",
    "Mul", "Or", "Pow", "Sub", "Sum", "Where", "Xor",
})
# fmt: on


class ExpandElimination(LocalPass):
    """The reader takes what the Expand took, where its result provably has the same shape.

    Refused where only the Expand gives the result its size, or where nobody can tell before a run.
    """

    operators: ClassVar[frozenset[str]] = WIDENING

    def rewrite(self, node: ir.Node, scope: Scope) -> bool:
        places = [place for place, value in enumerate(node.inputs) if producer_of(value, "Expand") is not None]
        if scope.opset < FIRST_THAT_ALL_BROADCAST or not places:
            return False
        edited = [_bypass(node, place, scope) for place in places]
        require(any(edited), "without the Expand its result may have another shape")
        return True


def _bypass(node: ir.Node, place: int, scope: Scope) -> bool:
    expand = producer_of(node.inputs[place], "Expand")
    narrow = expand.inputs[0] if expand is not None else None
    values = [narrow if at == place else value for at, value in enumerate(node.inputs)]
    shapes = [scope.symbols.shape(value) for value in values]
    found = [shape for shape in shapes if shape is not None]
    if len(found) < len(shapes) or tuple(broadcast(found)) != scope.symbols.shape(node.outputs[0]):
        return False
    node.replace_input_with(place, narrow)
    return True
