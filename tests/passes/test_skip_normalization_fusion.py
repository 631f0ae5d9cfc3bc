from __future__ import annotations

import onnx_ir as ir
import pytest

from passes.skip_normalization_fusion import SkipNormalizationFusion
from tests.transformer_graphs import GRAPHS, skip_norm


@pytest.mark.parametrize(
    ("name", "operator"),
    [
        ("skip_norm", "SkipSimplifiedLayerNormalization"),
        ("skip_norm_is_unread", "SkipSimplifiedLayerNormalization"),
        ("skip_layer_norm", "SkipLayerNormalization"),
    ],
)
def test_sum_and_norm_are_one_operator(name: str, operator: str) -> None:
    model = GRAPHS[name]()
    assert SkipNormalizationFusion()(model).modified
    assert [node.op_type for node in model.graph if node.op_type != "Identity"][:-1] == [operator]


@pytest.mark.parametrize(("name", "inputs"), [("skip_norm_biased", 4), ("skip_norm_bias_is_read", 3)])
def test_a_bias_goes_along_where_nobody_else_reads_it(name: str, inputs: int) -> None:
    model = GRAPHS[name]()
    assert SkipNormalizationFusion()(model).modified
    (node,) = [node for node in model.graph if node.op_type == "SkipSimplifiedLayerNormalization"]
    assert len(node.inputs) == inputs


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (skip_norm(skip="float[16]"), "[N,S,16] + [16]: the operator adds two equal shapes of rank 2 or 3"),
        (skip_norm("LayerNormalization<axis = 1>(s, whole, whole)", "float[N,S,16]"), "more than the last axis"),
        (skip_norm("RMSNormalization<axis = -1>(s, skip)"), "its weight is no constant"),
    ],
)
def test_refusals(model: ir.Model, reason: str) -> None:
    graph_pass = SkipNormalizationFusion()
    assert not graph_pass(model).modified
    assert [refusal.reason.endswith(reason) for refusal in graph_pass.refusals] == [True], graph_pass.refusals
