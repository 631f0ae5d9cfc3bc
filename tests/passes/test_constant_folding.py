from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from compressor.graph import session
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


def by_runtime(nodes: str, **weights: np.ndarray) -> tuple[list[str], ConstantFolding]:
    """What is left of nodes that give `k`, read by the sum that the graph gives."""
    model = graphs.typed(f"(float[3] x) => (float[3] y) {{ {nodes}  y = Add(x, k) }}", **weights)
    graph_pass = ConstantFolding(run=session.compute)
    return laws.left_by(graph_pass, model), graph_pass


THREE = np.array([0.5, -2, 3], np.float32)


@pytest.mark.parametrize(
    "nodes",
    [
        "k = Sigmoid(a)",
        "h = Tanh(a)  s = Softmax(h)  k = MatMul(s, m)",
        "k = ReduceL2<axes = [0], keepdims = 0>(m)",
        "p, q = Split(c, sizes)  k = Add(p, q)",
        "k, i = TopK(c, three)",
        "k = Range(zero, end, step)",
    ],
)
def test_the_runtime_computes_what_the_table_has_no_row_for(nodes: str) -> None:
    weights = {"a": THREE, "m": np.outer(THREE, THREE), "c": np.concatenate([THREE, THREE])}
    weights |= {"sizes": np.array([3, 3]), "three": np.array([3])}
    numbers = {"zero": np.float32(0), "end": np.float32(0.29), "step": np.float32(0.1)}
    left, graph_pass = by_runtime(nodes, **weights, **numbers)
    assert left == ["Add"]
    assert graph_pass.refusals == []


def test_a_large_weight_is_computed_when_read() -> None:
    """Weights that are standardized, as networks without norms have it: a BatchNormalization of them that trains."""
    text = """(float[1,4,8,8] x) => (float[1,16,6,6] y) {
        k, m, v = BatchNormalization<training_mode = 1>(w, ones, zeros, mean, variance)
        y = Conv(x, k)
    }"""
    numbers = {
        name: np.full(4, name in ("ones", "variance"), np.float32) for name in ("ones", "zeros", "mean", "variance")
    }
    model = graphs.typed(text, w=graphs.normal(16, 4, 3, 3), **numbers)
    graph_pass = ConstantFolding(run=session.compute)
    assert laws.left_by(graph_pass, model) == ["Conv"]
    assert isinstance(model.graph.initializers["w"].const_value, ir.LazyTensor)


@pytest.mark.parametrize(
    "nodes",
    [
        "k = RandomNormalLike(a)",
        "k = DequantizeLinear(codes, scale)",
        "q, s, z = DynamicQuantizeLinear(a)  k = DequantizeLinear(q, s, z)",
        "k, mask = Dropout(a, half, yes)",
    ],
)
def test_what_draws_or_stores_a_quantized_weight_is_not_for_the_runtime(nodes: str) -> None:
    weights = {"a": THREE, "codes": np.array([1, 2, 3], np.int8), "scale": np.float32(0.5)}
    model = graphs.typed(
        f"(float[3] x) => (float[3] y) {{ {nodes}  y = Add(x, k) }}",
        **weights,
        half=np.float32(0.5),
        yes=np.array(True),
    )
    assert not ConstantFolding(run=session.compute)(model).modified


def test_what_the_runtime_refuses_stays() -> None:
    def refuse(alone: ir.Model) -> list[np.ndarray]:
        raise ValueError(f"no kernel for {alone.graph[0].op_type}")

    model = graphs.typed("(float[3] x) => (float[3] y) { k = Sigmoid(a)  y = Add(x, k) }", a=THREE)
    graph_pass = ConstantFolding(run=refuse)
    assert not graph_pass(model).modified
    assert graph_pass.refusals[0].reason == "cannot be evaluated: no kernel for Sigmoid"


def test_a_weight_that_is_standardized_is_that_weight() -> None:
    """Its mean, for each of 512 outputs, is more than 1 KiB; the difference takes the place of the weight."""
    text = """(float[1,32,4,4] x) => (float[1,512,4,4] y) {
        m = ReduceMean<axes = [1, 2, 3]>(w)  d = Sub(w, m)  y = Conv(x, d)
    }"""
    model = graphs.typed(text, w=graphs.normal(512, 32, 1, 1))
    graph_pass = ConstantFolding(run=session.compute)
    assert laws.left_by(graph_pass, model) == ["Conv"]
    assert list(model.graph.initializers) == ["w"]
