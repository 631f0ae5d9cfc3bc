"""Pairs where a target computes in integers and nowhere else, on the ranges that the data has."""

from __future__ import annotations

from collections import Counter
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx.reference
import onnx_ir as ir
import pytest

from compressor.errors import RequestError
from compressor.graph.decoder import Feeds
from compressor.graph.session import open_session
from compressor.progress import identity
from compressor.quantize.rewriters import pairs, static_qdq
from compressor.quantize.rewriters.pairs import Form
from compressor.quantize.rewriters.ranges import Range
from compressor.quantize.rewriters.rewritten import Rewritten
from compressor.recipe.methods import StaticQdq
from tests import graphs, laws

# A block of a residual network: shortcut by stride and padding, sum, Relu, pool, product.
RESIDUAL = """(float[N,4,8,8] x) => (float[N,5] y) {
    a = Conv<pads = [1,1,1,1]>(x, w1, b1)  r = Relu(a)
    c = Conv<pads = [1,1,1,1], strides = [2,2]>(r, w2)
    s = Slice(r, starts, ends, axes, steps)  p = Pad(s, pads)
    t = Add(c, p)  u = Relu(t)
    g = GlobalAveragePool(u)  f = Flatten(g)
    y = Gemm<transB = 1>(f, w3, b3)
}"""
WEIGHTS: dict[str, Any] = {
    "w1": graphs.normal(4, 4, 3, 3),
    "b1": graphs.normal(4),
    "w2": graphs.normal(8, 4, 3, 3),
    "starts": np.array([0, 0]),
    "ends": np.array([8, 8]),
    "axes": np.array([2, 3]),
    "steps": np.array([2, 2]),
    "pads": np.array([0, 2, 0, 0, 0, 2, 0, 0]),
    "w3": graphs.normal(5, 8),
    "b3": graphs.normal(5),
}


def residual(opset: int = 21) -> ir.Model:
    return graphs.build(RESIDUAL, opset=opset, **WEIGHTS)


def data(shape: tuple[int, ...] = (16, 4, 8, 8), count: int = 2) -> list[Feeds]:
    rng = np.random.default_rng(0)
    return [{"x": rng.normal(size=shape).astype(np.float32)} for _ in range(count)]


def quantized(
    model: ir.Model,
    target: str = "cpu",
    exclude: tuple[str, ...] = (),
    batches: list[Feeds] | None = None,
    **options: Any,
) -> Rewritten:
    return static_qdq.quantize(model, StaticQdq(**options), target, exclude, batches or data(), identity)


def relative_error(ours: ir.Model, theirs: ir.Model, feeds: Feeds) -> float:
    found, expected = (laws.run(one, feeds)["y"].astype(float) for one in (ours, theirs))
    return float(np.square(found - expected).sum() / np.square(expected).sum())


def operators(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph)


CASES: list[tuple[str, dict[str, Any]]] = [
    ("cpu", {}),
    ("cpu", {"dtype": "int8"}),
    ("cpu", {"dtype": "int8", "symmetric": False}),
    ("cpu", {"dtype": "uint8", "symmetric": True}),
    ("cpu", {"per_channel": False}),
    ("cpu", {"reduce_range": True}),
    ("cpu", {"ranges": "percentile"}),
    ("generic", {}),
    ("tensorrt", {}),
    ("tensorrt", {"dtype": "fp8"}),
]


@pytest.mark.parametrize(("target", "options"), CASES, ids=str)
def test_the_outputs_stay_close_and_the_interface_stays(target: str, options: dict[str, Any]) -> None:
    made = quantized(residual(), target, **options).model
    onnx.checker.check_model(laws.to_bytes(made), full_check=True)
    assert laws.interface(made) == laws.interface(residual())
    # 8 bits: steps of 1/127 of the largest, errors that add up over four operators; fp8 has 3 bits of mantissa, and
    # 7-bit weights twice the step.
    assert relative_error(made, residual(), data()[0]) < (0.01 if options.get("dtype") == "fp8" else 2e-3)


@pytest.mark.parametrize("target", ["cpu", "generic", "tensorrt"])
def test_two_runs_make_the_same_graph(target: str) -> None:
    one, other = (laws.to_bytes(quantized(residual(), target).model) for _ in range(2))
    assert one == other


def test_onnx_runtime_computes_the_block_in_integers(tmp_path: Any) -> None:
    """Every operator of the block has its integer kernel; the last product, whose output is the graph's, is float."""
    import onnxruntime as ort

    path, options = tmp_path / "optimized.onnx", ort.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(path), 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    made = quantized(residual()).model
    session = ort.InferenceSession(laws.to_bytes(made), options, providers=["CPUExecutionProvider"])
    found = Counter(node.op_type for node in onnx.load(path).graph.node)
    integer = {"QLinearConv": 2, "QLinearAdd": 1, "QLinearGlobalAveragePool": 1}
    assert {name: found[name] for name in integer} == integer, found
    assert not {"Conv", "Relu", "Add", "GlobalAveragePool"} & found.keys()
    feeds = data()[0]
    served, exact = session.run(None, feeds)[0], laws.run(made, feeds)["y"]
    # A code on the edge of two may fall to its other side; the bias is rounded to 32 bits.
    np.testing.assert_allclose(served, exact, atol=0.02 * np.abs(exact).max())


def test_tensorrt_gets_symmetric_int8_no_bias_and_no_pair_between_sum_and_product() -> None:
    made = quantized(residual(), "tensorrt").model
    for node in made.graph:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            zero = node.inputs[2].const_value.numpy()
            assert (zero.dtype, zero.any()) == (np.int8, False)
    producers = {node.op_type: [v.producer() for v in node.inputs if v is not None] for node in made.graph}
    assert [one.op_type for one in producers["Add"] if one] == ["Conv", "Pad"]
    assert all(
        node.inputs[2].is_initializer() for node in made.graph if node.op_type == "Conv" and len(node.inputs) > 2
    )


def test_weights_are_stored_as_bytes_and_the_floats_are_gone() -> None:
    made = quantized(residual()).model
    sizes = {name: value.const_value.dtype for name, value in made.graph.initializers.items()}
    assert not {"w1", "w2", "w3"} & sizes.keys()
    assert sizes["w1.0.codes"] == ir.DataType.INT8
    scale = made.graph.initializers["w1.0.scale"].const_value.numpy()
    np.testing.assert_allclose(scale, np.abs(WEIGHTS["w1"]).max((1, 2, 3)) / 127, rtol=1e-6)


def test_a_transposed_weight_is_found_behind_its_transpose() -> None:
    text = "(float[N,6] x) => (float[N,4] y) { t = Transpose(w) y = MatMul(x, t) }"
    build = lambda: graphs.build(text, opset=21, w=graphs.normal(4, 6))  # noqa: E731
    made = quantized(build(), batches=data((9, 6))).model
    assert operators(made)["Transpose"] == 0
    assert relative_error(made, build(), data((9, 6))[0]) < 2e-3


# --- what stays float ------------------------------------------------------------------------------------------------


def test_an_excluded_weight_stays_with_its_reason() -> None:
    made = quantized(residual(), exclude=("w2",))
    assert made.left_alone == {"w2": "excluded by 'w2'"}
    assert "w2" in made.model.graph.initializers


def test_the_most_sensitive_product_stays() -> None:
    """It is the one that costs the most when the others are excluded."""
    products = ("w1", "w2", "w3")
    alone = {
        one: relative_error(quantized(residual(), exclude=tuple(set(products) - {one})).model, residual(), data()[0])
        for one in products
    }
    made = quantized(residual(), keep_sensitive=1)
    (kept,) = made.left_alone
    assert kept == max(alone, key=lambda one: alone[one])
    assert made.left_alone[kept].startswith("sensitive: alone it costs ")
    measured = {row["layer"]: row["error_alone"] for row in made.rows if row["error_alone"] is not None}
    assert measured == {one: pytest.approx(alone[one], rel=1e-5) for one in products if one != kept}


def test_a_product_of_two_activations_is_quantized_on_request() -> None:
    text = "(float[N,6,6] x) => (float[N,6,6] y) { h = MatMul(x, w) y = MatMul(h, x) }"
    build = lambda: graphs.build(text, opset=21, w=graphs.normal(6, 6))  # noqa: E731
    batches = data((5, 6, 6))
    assert list(quantized(build(), batches=batches).left_alone.values()) == ["a product of two activations"]
    made = quantized(build(), batches=batches, attention=True)
    assert (len(made.rows), made.left_alone) == (2, {})
    assert relative_error(made.model, build(), batches[0]) < 2e-3


def test_arithmetic_outside_the_integer_kernels_stays_float() -> None:
    """A LayerNorm written out, and a residual sum of an encoder: no Conv, no pair."""
    text = "(float[N,6] x) => (float[N,6] y) { h = MatMul(x, w) b = Add(h, bias) r = Add(b, x) y = Mul(r, bias) }"
    made = quantized(graphs.build(text, opset=21, w=graphs.normal(6, 6), bias=graphs.normal(6)), batches=data((5, 6)))
    assert operators(made.model)["QuantizeLinear"] == 1
    assert [row["layer"] for row in made.rows] == ["w"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("(float[N,6] x) => (float[N,6] y) { y = Relu(x) }", "no operator to quantize; none of Conv, Gemm, MatMul"),
        (
            "(double[N,6] x) => (double[N,6] y) { y = MatMul(x, d) }",
            "no operator to quantize; d: reads 'x', which is double; pairs are put around float32 alone$",
        ),
        (
            "(float[N,6] x) => (float[6,6] y) { h = MatMul(w, w) y = MatMul(h, h) }",
            "no operator to quantize; w: reads constants alone, and 1 more$",
        ),
    ],
)
def test_a_graph_without_products_is_refused(text: str, line: str) -> None:
    with pytest.raises(RequestError, match=line):
        quantized(graphs.build(text, opset=21, d=graphs.normal(6, 6, dtype=np.float64), w=graphs.normal(6, 6)))


def test_a_weight_of_two_products_is_told_apart_by_them() -> None:
    text = "(float[N,6] x) => (float[N,6] y) { p = MatMul(table, w) q = MatMul(x, w) y = MatMul(q, p) }"
    model = graphs.build(text, opset=21, w=graphs.normal(6, 6), table=graphs.normal(6, 6))
    made = quantized(model, batches=data((9, 6)))
    assert [row["layer"] for row in made.rows] == ["w"]
    assert made.left_alone == {"p": "reads constants alone", "y": "a product of two activations"}


def test_an_old_opset_gets_one_scale_a_weight_or_nothing() -> None:
    text = "(float[N,6] x) => (float[N,4] y) { y = MatMul(x, w) }"
    made = quantized(graphs.build(text, opset=11, w=graphs.normal(6, 4)), batches=data((9, 6)))
    assert made.fallbacks == ["opset 11: weights have a scale each instead of one per channel; 13 is the first"]
    onnx.checker.check_model(laws.to_bytes(made.model), full_check=True)
    with pytest.raises(RequestError, match="opset 9 has no QuantizeLinear for int8; 10 is the first"):
        quantized(graphs.build(text, opset=9, w=graphs.normal(6, 4)), batches=data((9, 6)))
    with pytest.raises(RequestError, match="opset 18 has no QuantizeLinear for fp8; 19 is the first"):
        quantized(graphs.build(text, opset=18, w=graphs.normal(6, 4)), "tensorrt", dtype="fp8")


# --- codes by hand ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "symmetric", "seen", "scale", "zero"),
    [
        ("uint8", False, Range(-1, 4.1), 0.02, 50),
        ("uint8", False, Range(0, 2.55), 0.01, 0),
        ("uint8", False, Range(-2.55, 0), 0.01, 255),
        ("uint8", True, Range(-1.27, 1), 0.01, 128),
        ("int8", False, Range(0, 2.55), 0.01, -128),
        ("int8", True, Range(-1, 1.27), 0.01, 0),
        ("fp8", True, Range(-448, 1), 1, 0),
        ("int8", True, Range(0, 0), 1, 0),
    ],
)
def test_an_activations_grid_by_hand(dtype: str, symmetric: bool, seen: Range, scale: float, zero: int) -> None:
    found_scale, found_zero = Form(dtype, symmetric, 127, per_channel=True).activation(seen)
    assert (float(found_scale), float(found_zero)) == (pytest.approx(scale), zero)
    assert (found_scale.dtype, found_zero.dtype) == (np.float32, np.dtype(pairs.TYPES[dtype]))


def test_weights_by_hand() -> None:
    weight = np.array([[1.27, -0.5], [12.7, 0.1]], np.float32)
    codes, scale = Form("int8", True, 127, per_channel=True).weight(weight, 0)
    assert codes.tolist() == [[127, -50], [127, 1]]
    np.testing.assert_allclose(scale, [[0.01], [0.1]], rtol=1e-6)
    codes, scale = Form("int8", True, 63, per_channel=True).weight(weight, None)
    assert (codes.max(), scale.shape) == (63, ())
    codes, _ = Form("fp8", True, 448, per_channel=True).weight(weight, 1)
    assert codes.dtype == ml_dtypes.float8_e4m3fn
    assert codes.astype(np.float32).max() == 448


def test_the_reference_is_run_as_written() -> None:
    """The quantized graph and ONNX's own reference say the same: the pairs mean what the standard says."""
    made, feeds = quantized(residual()).model, data()[0]
    reference = onnx.reference.ReferenceEvaluator(onnx.load_from_string(laws.to_bytes(made))).run(None, feeds)[0]
    found = open_session(made, "exact").run(None, feeds)[0]
    np.testing.assert_allclose(found, reference, atol=0.02 * np.abs(reference).max())  # codes on an edge


def test_what_a_sequence_yields_is_quantized() -> None:
    """GPT-2's q, k and v; onnx_ir 1.1 infers that SplitToSequence makes a tensor, which ONNX Runtime refuses."""
    text = """(float[N,8] x) => (float[N,5] y) {
        parts = SplitToSequence<axis = 1>(x, size)  one = SequenceAt(parts, at)  y = MatMul(one, w)
    }"""
    model = graphs.build(text, size=np.array(4), at=np.array(1), w=graphs.normal(4, 5))
    expected = laws.run(model, {"x": (x := graphs.normal(3, 8))})["y"]
    made = quantized(model, batches=[{"x": x}]).model
    assert operators(made)["QuantizeLinear"] == 1
    # Codes of 8 bits on both sides of a sum over four.
    np.testing.assert_allclose(laws.run(made, {"x": x})["y"], expected, rtol=0, atol=0.05 * np.abs(expected).max())
