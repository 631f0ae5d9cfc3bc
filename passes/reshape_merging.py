"""Two changes of shape in a row are one, and one that is taken back is none.

u = Unsqueeze(x, 1); y = Reshape(u, [0, -1])      ->  y = Reshape(x, [0, -1])
u = Unsqueeze(x, 1); y = Squeeze(u, 1)            ->  y = x
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import onnx_ir as ir

from passes.local import LocalPass, Scope, producer_of
from passes.shape_arithmetic import express

FIRST_WITH_SHAPE_INPUT = 5  # before, the target of a Reshape was an attribute
FAMILY = ("Flatten", "Reshape", "Squeeze", "Unsqueeze")


class ReshapeMerging(LocalPass):
    """The second reads the input of the first, as a Reshape to its own result's shape.

    A 0 in a Reshape copies a dimension of what it reads, so the new target is written from the shapes and not from the
    two old targets. Left alone where the first would stay for other readers, and the second is no return to its input.
    """

    operators: ClassVar[frozenset[str]] = frozenset(FAMILY)

    def rewrite(self, node: ir.Node, scope: Scope) -> bool:
        middle = node.inputs[0]
        first = producer_of(middle, *FAMILY)
        source = first.inputs[0] if first is not None else None
        before, after = scope.symbols.shape(source), scope.symbols.shape(node.outputs[0])
        if source is None or middle is None or before is None or after is None:
            return False
        if before == after:
            return scope.replace(node, source)
        if scope.opset < FIRST_WITH_SHAPE_INPUT or not _goes_with_readers(middle):
            return False
        _become_reshape(node, source, express(after, before), scope)
        return True


def _goes_with_readers(value: ir.Value) -> bool:
    readers = value.consumers()
    return not value.is_graph_output() and all(one.op_type in FAMILY and one.domain == "" for one in readers)


def _become_reshape(node: ir.Node, source: ir.Value, target: list[int], scope: Scope) -> None:
    shape = scope.constant(np.array(target, np.int64), f"{node.outputs[0].name}_shape")
    node.op_type = "Reshape"
    node.attributes.clear()
    node.resize_inputs(2)
    node.replace_input_with(0, source)
    node.replace_input_with(1, shape)
