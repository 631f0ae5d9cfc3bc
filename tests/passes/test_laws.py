"""Every pass on every graph."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from compressor import catalog
from tests import graphs, laws, transformer_graphs

GRAPHS = graphs.GRAPHS | transformer_graphs.GRAPHS
PASSES = [catalog.resolve(entry.where) for entry in catalog.PASSES.values()]


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("graph_pass", PASSES)
def test_laws(graph_pass: type[ir.passes.PassBase], graph: str) -> None:
    laws.check_pass(graph_pass(), GRAPHS[graph]())


@pytest.mark.parametrize("graph_pass", PASSES)
def test_modified_is_told_truly(graph_pass: type[ir.passes.PassBase]) -> None:
    for builder in GRAPHS.values():
        model = builder()
        before = laws.to_bytes(model)
        assert graph_pass()(model).modified == (laws.to_bytes(model) != before), builder
