"""Where nodes live: in the main graph, in the bodies of functions, and in graphs that nodes carry as attributes."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir


def roots(model: ir.Model) -> tuple[ir.Graph, ...]:
    """The main graph, then each function's body: the scopes that see nothing outside of themselves."""
    return (model.graph, *(function.graph for function in model.functions.values()))


def subgraphs(node: ir.Node) -> Iterator[ir.Graph]:
    """The branches of an If, the body of a Loop or Scan; each sees the values around it."""
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()


def let_go(node: ir.Node) -> None:
    """Empty the node's subgraphs; else a node on its way out keeps alive what only its branches read."""
    for subgraph in subgraphs(node):
        for graph in (subgraph, *list(subgraph.subgraphs())):
            for inner in list(graph):
                inner.resize_inputs(0)
            graph.outputs.clear()
            graph.remove(list(graph))
