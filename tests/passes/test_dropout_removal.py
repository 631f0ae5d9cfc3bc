from __future__ import annotations

import onnx_ir as ir
import pytest

from passes.dropout_removal import DropoutRemoval
from tests import graphs


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph.all_nodes()]


@pytest.mark.parametrize("graph", ["dropout_opset_6", "dropout_opset_7", "dropout_opset_10", "dropout_opset_12"])
def test_inference_dropout_goes(graph: str) -> None:
    model = graphs.GRAPHS[graph]()
    DropoutRemoval()(model)
    assert operators(model) == ["Neg", "Exp"]


@pytest.mark.parametrize("graph", ["dropout_opset_13_mask", "dropout_opset_17_ratio_zero"])
def test_a_mask_that_is_read_is_true_everywhere(graph: str) -> None:
    model = graphs.GRAPHS[graph]()
    DropoutRemoval()(model)
    assert operators(model) == ["Neg", "Shape", "ConstantOfShape", "Exp"]
    assert model.graph.outputs[1].dtype == ir.DataType.BOOL


@pytest.mark.parametrize("graph", ["dropout_is_all", "dropout_between_outputs", "dropout_in_branch"])
def test_an_output_keeps_its_name_behind_an_identity(graph: str) -> None:
    model = graphs.GRAPHS[graph]()
    DropoutRemoval()(model)
    assert "Dropout" not in operators(model)
    assert operators(model).count("Identity") == 1


@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        ("dropout_opset_6_trains", "is_test is not 1"),
        ("dropout_opset_10_mask", "before opset 12 nothing says"),
        ("dropout_opset_17_trains", "training_mode is true"),
        ("dropout_mode_is_an_input", "'train' is decided at run time"),
    ],
)
def test_what_may_train_stays(graph: str, reason: str) -> None:
    model, graph_pass = graphs.GRAPHS[graph](), DropoutRemoval()
    assert not graph_pass(model).modified
    assert [refusal.op_type for refusal in graph_pass.refusals] == ["Dropout"]
    assert reason in graph_pass.refusals[0].reason


def test_refusals_are_those_of_the_last_call() -> None:
    graph_pass = DropoutRemoval()
    graph_pass(graphs.dropout_mode_is_an_input())
    graph_pass(graphs.dropout_is_all())
    assert graph_pass.refusals == []


def test_a_function_body_is_swept_under_its_own_opset() -> None:
    body = graphs.dropout(7).graph
    for name in list(body.initializers):
        del body.initializers[name]
    function = ir.Function("local", "F", graph=body, attributes=[])
    x = ir.val("x", ir.DataType.FLOAT, ["N", 3])
    call = ir.node("F", [x], domain="local")
    graph = ir.Graph([x], call.outputs, nodes=[call], opset_imports={"": 17, "local": 1})
    model = ir.Model(graph, ir_version=10, functions=[function])
    assert DropoutRemoval()(model).modified
    assert [node.op_type for node in function] == ["Neg", "Exp"]
