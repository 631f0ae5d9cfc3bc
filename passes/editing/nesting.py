"""Where nodes live: in the main graph, in the bodies of functions, and in graphs that nodes carry as attributes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx_ir as ir

GRAPH, GRAPHS = ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS


def roots(model: ir.Model) -> tuple[ir.Graph, ...]:
    """The main graph, then each function's body: the scopes that see nothing outside of themselves."""
    return (model.graph, *(function.graph for function in model.functions.values()))


def in_order(root: ir.Graph) -> bool:
    """Whether each node stands behind those it reads, in the graph and in those inside it: it need not be sorted."""
    return _in_order(root, {None})


def _in_order(graph: ir.Graph, behind: set[ir.Node | None]) -> bool:
    for node in graph:
        if any(value is not None and value.producer() not in behind for value in node.inputs):
            return False
        if not all(_in_order(inner, behind) for inner in subgraphs(node)):
            return False
        behind.add(node)
    return True


def every_node(root: ir.Graph) -> Iterator[ir.Node]:
    """The nodes of a graph, after each those of the graphs inside it: passes walk over thousands, dozens of times."""
    for node in root:
        yield node
        for graph in subgraphs(node):
            yield from every_node(graph)


def every_graph(root: ir.Graph) -> Iterator[ir.Graph]:
    """A graph and the graphs inside it, outer ones first."""
    yield root
    for node in root:
        for graph in subgraphs(node):
            yield from every_graph(graph)


def subgraphs(node: ir.Node) -> Sequence[ir.Graph]:
    """The branches of an If, the body of a Loop or Scan; each sees the values around it."""
    found: list[ir.Graph] = []
    for attribute in node.attributes.data.values():  # the dictionary itself: its wrapper takes ten times as long
        kind = attribute.type
        if kind is GRAPH:
            found.append(attribute.as_graph())
        elif kind is GRAPHS:
            found += attribute.as_graphs()
    return found


def let_go(node: ir.Node) -> None:
    """Empty the node's subgraphs; else a node on its way out keeps alive what only its branches read."""
    for subgraph in subgraphs(node):
        for graph in list(every_graph(subgraph)):
            for inner in list(graph):
                inner.resize_inputs(0)
            graph.outputs.clear()
            graph.remove(list(graph))
