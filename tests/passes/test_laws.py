"""Every pass on every graph."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from passes.constant_folding import ConstantFolding
from passes.conv_batchnorm_fusion import ConvBatchNormFusion
from passes.dead_node_elimination import DeadNodeElimination
from passes.dropout_removal import DropoutRemoval
from tests import graphs, laws

PASSES = (DropoutRemoval, ConvBatchNormFusion, ConstantFolding, DeadNodeElimination)


@pytest.mark.parametrize("graph", graphs.GRAPHS)
@pytest.mark.parametrize("graph_pass", PASSES)
def test_laws(graph_pass: type[ir.passes.PassBase], graph: str) -> None:
    laws.check_pass(graph_pass(), graphs.GRAPHS[graph]())


@pytest.mark.parametrize("graph_pass", PASSES)
def test_modified_is_told_truly(graph_pass: type[ir.passes.PassBase]) -> None:
    for builder in graphs.GRAPHS.values():
        model = builder()
        before = laws.to_bytes(model)
        assert graph_pass()(model).modified == (laws.to_bytes(model) != before), builder
