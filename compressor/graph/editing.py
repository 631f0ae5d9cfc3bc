"""What stages write into a graph: one more constant, nodes in the place of another, and nothing that nobody reads."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir


def add_constant(graph: ir.Graph, tensor: ir.TensorProtocol) -> ir.Value:
    """A new initializer under the tensor's name, which must be free."""
    of_type, shape = ir.TensorType(tensor.dtype), ir.Shape(tensor.shape.numpy())
    value = ir.Value(name=tensor.name, type=of_type, shape=shape, const_value=tensor)
    graph.register_initializer(value)
    return value


def take_over(graph: ir.Graph, node: ir.Node, nodes: Sequence[ir.Node]) -> None:
    """Put `nodes` where the node stands; the result of their last one takes name, type, shape and readers of its."""
    old, new = node.outputs[0], nodes[-1].outputs[0]
    graph.insert_before(node, nodes)
    new.type, new.shape, name = old.type, old.shape, old.name
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    new.name = name


def drop_unread(graph: ir.Graph, value: ir.Value | None) -> None:
    """Remove a weight, and the nodes that only turned it into what was read, once nobody reads them."""
    if value is None or value.uses() or value.is_graph_output():
        return
    producer = value.producer()
    if producer is None:
        graph.initializers.pop(str(value.name), None)
        return
    sources = list(producer.inputs)
    graph.remove(producer, safe=True)
    for source in sources:
        drop_unread(graph, source)
