"""Walks over graphs inside graphs: the order of onnx-ir's own, in less time."""

from __future__ import annotations

import random
from collections.abc import Callable

import onnx_ir as ir
import pytest

from passes.editing.nesting import every_graph, every_node, in_order
from tests import graphs, trap_graphs

NESTED = [graphs.dropout_in_branch, graphs.constant_in_loop, graphs.dead_branches, trap_graphs.branch_shares_a_name]


@pytest.mark.parametrize("make", NESTED)
def test_every_node_in_the_order_of_onnx_ir(make: Callable[[], ir.Model]) -> None:
    model = make()
    walked = list(every_node(model.graph))
    assert walked == list(ir.traversal.RecursiveGraphIterator(model.graph))
    assert len(walked) > len(model.graph), "there are graphs inside"


@pytest.mark.parametrize("make", NESTED)
def test_every_graph_outer_ones_first(make: Callable[[], ir.Model]) -> None:
    model = make()
    assert list(every_graph(model.graph)) == [model.graph, *model.graph.subgraphs()]


@pytest.mark.parametrize("make", NESTED)
def test_in_order_is_what_sorting_leaves_alone(make: Callable[[], ir.Model]) -> None:
    found = set()
    for seed in range(30):
        model = make()
        shuffled = random.Random(seed)
        for graph in list(every_graph(model.graph)):
            nodes = list(graph)
            graph.remove(nodes)
            graph.extend(nodes if seed == 0 else shuffled.sample(nodes, len(nodes)))
        before, told = list(every_node(model.graph)), in_order(model.graph)
        model.graph.sort()
        assert told == (before == list(every_node(model.graph)))
        found.add(told)
    free = make is trap_graphs.branch_shares_a_name  # no node there reads another
    assert found == ({True} if free else {True, False})
