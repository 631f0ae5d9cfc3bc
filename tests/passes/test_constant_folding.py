from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from passes.constant_folding import ConstantFolding
from tests import graphs, laws, moving_graphs


def fold(graph: str, **options: int) -> tuple[ir.Model, ConstantFolding]:
    model, graph_pass = graphs.GRAPHS[graph](), ConstantFolding(**options)
    graph_pass(model)
    return model, graph_pass


@pytest.mark.parametrize(
    ("graph", "left"),
    [
        ("constant_is_the_output", ["Identity", "Add"]),
        ("constant_in_loop", ["Loop", "Identity", "Add"]),
        ("constants_in_branches", ["If", "Add", "Add"]),
        ("int4_weight", ["DequantizeLinear", "MatMul"]),
        ("lstm_gates", ["MatMul"]),
        ("masked_with_infinity", ["Add"]),
        ("shape_from_constants", ["Reshape"]),
        ("shape_of_static_input", ["Reshape"]),
        ("transposed_weight", ["MatMul"]),
        ("weight_and_its_shape", ["MatMul", "Shape", "Add"]),
    ],
)
def test_folds(graph: str, left: list[str]) -> None:
    model, graph_pass = fold(graph)
    assert [node.op_type for node in model.graph.all_nodes()] == left
    assert graph_pass.refusals == []


@pytest.mark.parametrize(
    "graph",
    [
        "default_may_be_overridden",
        "quantized_weight",
        "random_draws",
        "shape_of_dynamic_input",
        "strings",
    ],
)
def test_leaves_alone_what_is_no_candidate(graph: str) -> None:
    model, graph_pass = fold(graph)
    assert laws.to_bytes(model) == laws.to_bytes(graphs.GRAPHS[graph]())
    assert graph_pass.refusals == []


@pytest.mark.parametrize(
    ("graph", "op_type", "reason"),
    [
        ("expand_to_a_weight", "Expand", "grow by 4194284 bytes"),
        ("tied_embedding", "Transpose", "grow by 32768 bytes"),
        ("infinity_from_finite", "Log", "not finite"),
        ("constants_before_ir_4", "Graph", "raise the IR version"),
    ],
)
def test_refused_with_a_reason(graph: str, op_type: str, reason: str) -> None:
    model, graph_pass = fold(graph)
    assert len(model.graph) == len(graphs.GRAPHS[graph]().graph)
    assert [refusal.op_type for refusal in graph_pass.refusals] == [op_type]
    assert reason in graph_pass.refusals[0].reason


def test_the_budget_is_an_option() -> None:
    model, _ = fold("tied_embedding", max_bytes_grown=32768)
    assert [node.op_type for node in model.graph] == ["Gather", "MatMul"]


def test_a_weight_keeps_its_name_and_is_computed_when_read() -> None:
    model, _ = fold("transposed_weight")
    (weight,) = model.graph.initializers.values()
    assert weight.name == "weight"
    assert isinstance(weight.const_value, ir.LazyTensor)
    np.testing.assert_array_equal(weight.const_value.numpy(), graphs.normal(128, 64).T)


def test_a_result_never_grows_the_model_beyond_the_budget() -> None:
    for graph, builder in graphs.GRAPHS.items():
        before = sum(tensor.nbytes for tensor in builder().graph.initializers.tensors())
        after = sum(tensor.nbytes for tensor in fold(graph)[0].graph.initializers.tensors())
        assert after <= before + 1024, graph


def test_an_attribute_of_another_opset_is_refused() -> None:
    """Before opset 7 an Add broadcasts by attribute."""
    text = "(float[2,3] x) => (float[2,3] y) { s = Add<broadcast = 1>(a, b)  y = Mul(x, s) }"
    model = graphs.build(text, opset=6, a=graphs.normal(2, 3), b=graphs.normal(3))
    graph_pass = ConstantFolding()
    assert not graph_pass(model).modified
    assert "unexpected keyword argument 'broadcast'" in graph_pass.refusals[0].reason


def test_a_type_that_the_model_declares_otherwise_is_refused() -> None:
    model = graphs.shape_from_constants()
    model.graph[0].outputs[0].dtype = ir.DataType.INT32
    graph_pass = ConstantFolding()
    assert not graph_pass(model).modified
    assert "declares INT32" in graph_pass.refusals[0].reason


def test_a_dimension_of_minus_one_is_no_dimension() -> None:
    model = graphs.shape_of_static_input()
    model.graph.inputs[0].shape = ir.Shape([-1, 6])
    assert not ConstantFolding()(model).modified


def test_weights_written_short_are_written_out() -> None:
    """So that the norm can go into the convolution; a number that is no weight stays short."""
    model, graph_pass = moving_graphs.weights_written_short(), ConstantFolding()
    graph_pass(model)
    assert [node.op_type for node in model.graph] == ["Conv", "BatchNormalization", "ConstantOfShape", "Mul"]
    assert [refusal.op_type for refusal in graph_pass.refusals] == ["ConstantOfShape"]
    assert not ConstantFolding(max_bytes_of_weight=0)(moving_graphs.weights_written_short()).modified
