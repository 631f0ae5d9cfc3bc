"""A value that is cut into a sequence, whose pieces are taken out by their place, is split.

   s = SplitToSequence(x, 32, axis); q = SequenceAt(s, 0); k = SequenceAt(s, 1); v = SequenceAt(s, 2)     x: [N, S, 96]
-> q, k, v = Split(x, [32, 32, 32], axis)

No provider but the CPU has sequences, and an engine ends where one begins.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from passes.editing.constants import constant
from passes.formulas.matching import integers
from passes.local import LocalPass, Refused, Scope, require

FIRST_SPLIT_WITH_INPUT = 13  # before, the sizes were an attribute


class SequenceSplitting(LocalPass):
    """Replace a SplitToSequence and every SequenceAt that reads it by a Split.

    The sizes of all pieces are known, every reader takes out one piece at a constant place, in the same graph, and no
    piece loses the axis (keepdims = 0).
    """

    operators: ClassVar[frozenset[str]] = frozenset({"SplitToSequence"})

    def rewrite(self, node: ir.Node, scope: Scope) -> bool:
        data, sequence = node.inputs[0], node.outputs[0]
        if data is None:
            return False
        sizes = _sizes(node, scope)
        readers = [(one, _place(one, node, len(sizes))) for one in sequence.consumers()]
        require(bool(readers) and not sequence.is_graph_output(), "the sequence is an output")
        pieces = _split(node, data, sizes, scope)
        for reader, place in readers:
            scope.replace(reader, pieces[place])
        return True


def _sizes(node: ir.Node, scope: Scope) -> list[int]:
    given = node.inputs[1] if len(node.inputs) > 1 else None
    require(given is not None or node.attributes.get_int("keepdims", 1) == 1, "its pieces lose the axis")
    numbers, tensor = ((1,), None) if given is None else (integers(given), constant(given))
    if numbers is None or any(one < 0 for one in numbers):
        raise Refused("the sizes of its pieces are not known before it runs")
    if tensor is not None and len(tensor.shape):
        return list(numbers)
    shape = scope.symbols.shape(node.inputs[0])
    whole = shape[node.attributes.get_int("axis", 0)].known if shape else None
    if whole is None or numbers[0] < 1:
        raise Refused("how long the axis is, and so how many pieces there are, is not known before it runs")
    return [min(numbers[0], whole - start) for start in range(0, whole, numbers[0])]


def _place(reader: ir.Node, node: ir.Node, count: int) -> int:
    """Which piece it takes out."""
    require((reader.domain, reader.op_type) == ("", "SequenceAt"), f"{reader.op_type} reads the whole sequence")
    require(reader.graph is node.graph, "a piece is taken out in another graph")
    place = integers(reader.inputs[1])
    require(place is not None and -count <= place[0] < count, "which piece is taken out is not known before it runs")
    assert place is not None, "held by the line above"
    return place[0] % count


def _split(node: ir.Node, data: ir.Value, sizes: list[int], scope: Scope) -> list[ir.Value]:
    inputs: list[ir.Value | None] = [data]
    attributes: dict[str, Any] = {"axis": node.attributes.get_int("axis", 0)}
    if scope.opset < FIRST_SPLIT_WITH_INPUT:
        attributes["split"] = sizes
    else:
        inputs.append(scope.constant(np.array(sizes, np.int64), f"{data.name}_sizes"))
    split = ir.node("Split", inputs, attributes, num_outputs=len(sizes))
    for piece in split.outputs:
        piece.name, piece.type = scope.names.fresh(f"{data.name}_piece"), data.type
    node.prepend(split)
    return list(split.outputs)
