"""Every pass on every graph."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest

from compressor import catalog
from tests import detour_graphs, graphs, laws, moving_graphs, transformer_graphs, trap_graphs

GRAPHS = graphs.GRAPHS | moving_graphs.GRAPHS | transformer_graphs.GRAPHS | detour_graphs.GRAPHS | trap_graphs.GRAPHS

PASSES = [catalog.resolve(entry.where) for entry in catalog.PASSES.values()]


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("graph_pass", PASSES)
def test_laws(graph_pass: type[ir.passes.PassBase], graph: str) -> None:
    laws.check_pass(graph_pass(), GRAPHS[graph]())


@pytest.mark.parametrize("graph_pass", PASSES)
def test_modified_is_told_truly(graph_pass: type[ir.passes.PassBase]) -> None:
    """Shapes between inputs and outputs are notes: a pass may write them anew and say that it changed nothing."""
    for builder in GRAPHS.values():
        model = builder()
        before = laws.to_bytes(model), without_notes(model)
        modified = graph_pass()(model).modified
        assert modified or without_notes(model) == before[1], builder
        assert not modified or laws.to_bytes(model) != before[0], builder


def without_notes(model: ir.Model) -> bytes:
    proto = onnx.load_from_string(laws.to_bytes(model))
    forget(proto.graph)
    return proto.SerializeToString()


def forget(graph: onnx.GraphProto) -> None:
    del graph.value_info[:]
    for node in graph.node:
        for attribute in node.attribute:
            forget(attribute.g)
