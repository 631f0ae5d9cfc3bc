"""A value or a node makes way for another, or goes."""

from __future__ import annotations

import onnx_ir as ir

from passes.editing.constants import release
from passes.editing.naming import Names
from passes.editing.nesting import let_go


def hand_over(old: ir.Value, new: ir.Value, names: Names) -> None:
    """`new` stands where `old` stood: its name, type, shape and metadata, its readers, its place in the interface.

    `old` gets a fresh name, for its node may go on, or go later.
    """
    name, old.name = old.name, names.fresh(f"{old.name}_replaced")
    new.name, new.type, new.shape = name, old.type, old.shape
    new.metadata_props.update(old.metadata_props)
    new.meta.update(old.meta)
    old.replace_all_uses_with(new, replace_graph_outputs=True)


def become_identity(node: ir.Node, value: ir.Value) -> bool:
    if node.op_type == "Identity" and node.inputs[0] is value:
        return False
    dropped = [one for one in node.inputs if one is not None and one is not value]
    node.op_type, node.domain = "Identity", ""
    node.attributes.clear()
    node.resize_inputs(1)
    node.replace_input_with(0, value)
    node.resize_outputs(1)
    for one in dropped:
        release(one)
    return True


def drop(node: ir.Node) -> None:
    """Take a node out whose results nobody reads, and the constants that only it read."""
    inputs = {value for value in node.inputs if value is not None}
    assert node.graph is not None, "a node is dropped once"
    let_go(node)
    node.graph.remove(node, safe=True)
    for value in inputs:
        release(value)
