from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from compressor.graph import narrow
from passes import run_passes
from passes.half.half_precision import HalfPrecision
from passes.import_normalization import ImportNormalization
from passes.skip_normalization_fusion import SkipNormalizationFusion
from tests import graphs, laws, transformer_graphs

HALF = ir.DataType.FLOAT16
Allows = Callable[[ir.Node], bool]


def halved(model: ir.Model, allows: Allows = lambda node: True) -> tuple[ir.Model, HalfPrecision]:
    ImportNormalization()(model)
    graph_pass = HalfPrecision(HALF, allows)
    graph_pass(model)
    onnx.checker.check_model(laws.to_bytes(model), full_check=True)
    return model, graph_pass


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph.all_nodes()]


def perceptron(middle: str = "a = Relu(h)", **weights: np.ndarray) -> ir.Model:
    text = f"(float[N,8] x) => (float[N,4] y) {{ h = MatMul(x, v)  {middle}  y = MatMul(a, w) }}"
    return graphs.build(text, **{"v": graphs.normal(8, 16), "w": graphs.normal(16, 4), **weights})


@pytest.mark.parametrize("graph", transformer_graphs.GRAPHS)
def test_transformers_are_the_same_within_the_type(graph: str) -> None:
    """Within half of its digits, as every pass is judged; the interface keeps its types."""
    original = transformer_graphs.GRAPHS[graph]()
    ImportNormalization()(original)
    result, outcomes = run_passes(original, [HalfPrecision(HALF, lambda node: True)], laws.run, coarsest=HALF)
    assert [outcome.rolled_back for outcome in outcomes] == [None]
    assert laws.interface(result) == laws.interface(original)


def test_one_cast_in_and_one_out() -> None:
    model, _ = halved(perceptron())
    assert operators(model) == ["Cast", "MatMul", "Relu", "MatMul", "Cast"]
    assert {value.dtype for value in model.graph.initializers.values()} == {HALF}
    assert [value.dtype for value in (*model.graph.inputs, *model.graph.outputs)] == [ir.DataType.FLOAT] * 2


def test_a_value_is_cast_once_for_all_readers() -> None:
    text = "(float[2,4] x) => (float[2,4] y) { a = MatMul(x, w)  b = MatMul(x, v)  y = Add(a, b) }"
    model, _ = halved(graphs.build(text, w=graphs.normal(4, 4), v=graphs.normal(4, 4) + 1))
    assert Counter(operators(model))["Cast"] == 2


def test_without_a_kernel_between_two_casts() -> None:
    model, graph_pass = halved(perceptron(), lambda node: node.op_type != "Relu")
    assert operators(model) == ["Cast", "MatMul", "Cast", "Relu", "Cast", "MatMul", "Cast"]
    assert "no kernel for it in FLOAT16" in graph_pass.refusals[0].reason


def test_what_costs_no_time_is_not_worth_casts() -> None:
    """Between two Exp, which are kept for their range, a Neg in half would cost two casts."""
    model, _ = halved(perceptron("n = Neg(h)  e = Exp(n)  s = Neg(e)  a = Exp(s)"))
    assert operators(model) == ["Cast", "MatMul", "Neg", "Cast", "Exp", "Neg", "Exp", "Cast", "MatMul", "Cast"]


def test_a_graph_without_products_stays() -> None:
    _, graph_pass = halved(graphs.build("(float[3] x) => (float[3] y) { a = Relu(x)  y = Sigmoid(a) }"))
    assert graph_pass.edited == []


@pytest.mark.parametrize("number", [1e6, 1e-12, -3.4028234e38])
def test_a_constant_that_does_not_fit_stays(number: float) -> None:
    """Too large for float16, or nothing but zero in it."""
    model, graph_pass = halved(perceptron("a = Add(h, k)", k=np.float32(number)))
    limited = ["Clip"] if abs(number) > 1 else []
    assert operators(model) == ["Cast", "MatMul", "Cast", "Add", *limited, "Cast", "MatMul", "Cast"]
    assert model.graph.initializers["k"].dtype == ir.DataType.FLOAT
    assert [refusal.reason for refusal in graph_pass.refusals] == ["the constant 'k' does not fit FLOAT16"]


def test_an_infinity_fits() -> None:
    model, _ = halved(perceptron("a = Max(h, k)", k=np.float32(-np.inf)))
    assert operators(model) == ["Cast", "MatMul", "Max", "MatMul", "Cast"]


def test_whole_numbers_are_counted_in_float32() -> None:
    """4097 is no number of float16."""
    text = "(int64[N,4] p) => (float[N,4] y) { f = Cast<to = 1>(p)  y = MatMul(f, w) }"
    model, graph_pass = halved(graphs.build(text, w=graphs.normal(4, 4)))
    assert operators(model) == ["Cast", "Cast", "MatMul", "Cast"]
    assert "counted further in float32" in graph_pass.refusals[0].reason


def test_a_cast_of_floats_goes_where_it_is_wanted() -> None:
    text = "(double[N,4] p) => (float[N,4] y) { f = Cast<to = 1>(p)  y = MatMul(f, w) }"
    model, _ = halved(graphs.build(text, w=graphs.normal(4, 4)))
    assert operators(model) == ["Cast", "MatMul", "Cast"]


def test_what_a_branch_reads_is_float32() -> None:
    text = """(float[2,4] x, bool c) => (float[2,4] y) {
        h = MatMul(x, w)
        y = If (c) <then_branch = t () => (float[2,4] a) { a = Add(h, w2) },
                    else_branch = e () => (float[2,4] b) { b = Neg(h) }>
    }"""
    model, graph_pass = halved(graphs.build(text, w=graphs.normal(4, 4), w2=graphs.normal(2, 4)))
    assert operators(model) == ["Cast", "MatMul", "Cast", "If", "Add", "Neg"]
    assert "it holds graphs" in graph_pass.refusals[0].reason
    laws.run(model)


def test_an_output_that_is_read_further_keeps_its_name() -> None:
    text = "(float[2,4] x) => (float[2,4] h, float[2,4] y) { h = MatMul(x, w)  y = MatMul(h, w) }"
    model, _ = halved(graphs.build(text, w=graphs.normal(4, 4)))
    assert [value.name for value in model.graph.outputs] == ["h", "y"]
    assert Counter(operators(model)) == {"MatMul": 2, "Cast": 3}


def test_weights_are_rounded_when_they_are_read() -> None:
    model, _ = halved(perceptron())
    assert all(isinstance(value.const_value, ir.LazyTensor) for value in model.graph.initializers.values())


def test_the_node_that_overflows_is_found() -> None:
    """Nothing in the graph tells that the activations are large: the proof does, and names the product."""
    model = perceptron("a = Identity(h)", v=graphs.normal(8, 16) * 2e4, w=graphs.normal(16, 4) * 1e-4)
    ImportNormalization()(model)
    feeds = {"x": graphs.normal(2, 8) * 3}
    probe = lambda candidate: laws.run(narrow.runnable(candidate.clone(), HALF), feeds)  # noqa: E731
    _, outcomes = run_passes(model, [HalfPrecision(HALF, lambda node: True)], probe, coarsest=HALF)
    assert outcomes[0].rolled_back is not None
    assert outcomes[0].guilty == "MatMul h"


@pytest.mark.parametrize("opset", [10, 17])
def test_a_mask_of_the_lowest_float_makes_no_infinity(opset: int) -> None:
    """A row that is masked whole is uniform before and after; with -inf it would be NaN."""
    text = """(float[2,4] x, float[4] hidden) => (float[2,4] y) {
        m = Mul(hidden, lowest)  h = MatMul(x, w)  s = Add(h, m)  p = Softmax(s)  y = MatMul(p, w)
    }"""
    weights = {"w": graphs.normal(4, 4) / 8, "lowest": np.finfo(np.float32).min}
    model, _ = halved(graphs.build(text, opset, **weights))
    assert Counter(operators(model))["Clip"] == 1
    feeds = {"x": graphs.normal(2, 4), "hidden": np.ones(4, np.float32)}
    found, expected = (
        laws.run(one, feeds)["y"] for one in (narrow.runnable(model, HALF), graphs.build(text, opset, **weights))
    )
    np.testing.assert_allclose(found, expected, atol=4 * np.finfo(np.float16).eps)  # four roundings of numbers near 1


@pytest.mark.parametrize("graph", ["skip_norm", "skip_layer_norm"])
def test_a_sum_that_comes_with_its_norm_is_half_too(graph: str) -> None:
    """Statistics would be float32, and the operator's fourth output is none."""
    model = transformer_graphs.GRAPHS[graph]()
    model.graph.append(product := ir.node("MatMul", [model.graph.outputs[0], value_of(graphs.normal(16, 16))]))
    z = product.outputs[0]
    z.name, z.type, z.shape = "z", ir.TensorType(ir.DataType.FLOAT), ir.Shape(["N", "S", 16])
    model.graph.outputs[:] = [z]
    model.graph.register_initializer(product.inputs[1])
    assert SkipNormalizationFusion()(model).modified
    model, graph_pass = halved(model)
    (fused,) = [node for node in model.graph if node.domain == "com.microsoft"]
    assert graph_pass.refusals == []
    assert {output.dtype for output in fused.outputs if output.name} == {HALF}


def test_a_norm_whose_statistics_are_read_stays() -> None:
    text = """(float[N,8] x) => (float[N,8] y, float[N,1] m) {
        h = MatMul(x, w)  n, m = LayerNormalization<axis = -1>(h, one)  y = MatMul(n, w)
    }"""
    _, graph_pass = halved(graphs.build(text, w=graphs.normal(8, 8), one=np.ones(8, np.float32)))
    assert [refusal.reason for refusal in graph_pass.refusals] == ["its statistics are float32"]


def value_of(array: np.ndarray) -> ir.Value:
    tensor = ir.tensor(array, name="more")
    return ir.Value(name="more", type=ir.TensorType(tensor.dtype), shape=tensor.shape, const_value=tensor)
