"""A value that takes another's place has all that readers, callers and files know of it."""

from __future__ import annotations

import onnx_ir as ir

from passes.editing.naming import Names
from passes.editing.replacing import hand_over
from tests import graphs


def test_what_is_handed_over_is_known_as_the_old_value_was() -> None:
    graph = graphs.build("(float[2] x) => (float[2] y, float[2] z) { y = Neg(x)  z = Exp(y) }").graph
    old, reader, node = graph.outputs[0], graph[1], ir.node("Abs", [graph.inputs[0]])
    old.metadata_props["module"] = "model.layers.0"
    graph.insert_before(reader, node)
    new = node.outputs[0]
    hand_over(old, new, Names(graph))
    assert (new.name, new.dtype, new.shape) == ("y", ir.DataType.FLOAT, ir.Shape([2]))
    assert new.metadata_props == {"module": "model.layers.0"}
    assert graph.outputs[0] is reader.inputs[0] is new
    assert (old.name, old.uses()) == ("y_replaced", ())
