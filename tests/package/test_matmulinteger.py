"""Integer products: the equations of the paper, in every form that a target computes, on any linear of a graph."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from compressor.artifact import Artifact
from compressor.errors import RequestError
from compressor.graph.session import open_session
from compressor.package import matmulinteger
from compressor.progress import identity
from compressor.quantize.flow.linears import find_linears
from compressor.quantize.llm_int8 import LlmInt8
from compressor.quantize.qtensor import PER_CHANNEL, PER_TENSOR, Grid
from compressor.quantize.rewriters.rewritten import refuse_quantized
from compressor.quantize.rtn import RoundToNearest
from compressor.recipe import recipe
from compressor.stages import quantizing
from tests import graphs, laws

TEXT = """(float[N,T,24] x) => (float[N,T,8] y) {
    h = MatMul(x, w1)  g = MatMul(x, w2)  m = Mul(h, g)  t = Transpose<perm = [1, 0]>(w3)  y = MatMul(m, t)
}"""
BIASED = "(float[N,24] x) => (float[N,8] y) { h = Gemm<transB = 1>(x, w4, b)  y = MatMul(h, w5) }"
WEIGHTS = {"w1": graphs.normal(24, 16), "w2": graphs.normal(24, 16) + 1, "w3": graphs.normal(8, 16)}
WEIGHTS |= {"w4": graphs.normal(16, 24), "b": graphs.normal(16), "w5": graphs.normal(16, 8)}
LOUD = (3, 17)


def model(text: str = TEXT, opset: int = 21) -> ir.Model:
    used = {name: weight for name, weight in WEIGHTS.items() if f"{name})" in text or f"{name}," in text}
    return graphs.build(text, opset=opset, **used)


def feeds(text: str = TEXT) -> dict[str, np.ndarray]:
    """Two columns thirty times as loud; a token of zeros, a token of tiny numbers."""
    x = np.random.default_rng(0).normal(size=(2, 5, 24)).astype(np.float32)
    x[..., list(LOUD)] *= 30
    x[0, 0], x[1, 1] = 0, x[1, 1] * 1e-30
    return {"x": x if text is TEXT else x.reshape(-1, 24)}


def decomposed(text: str, columns: tuple[int, ...] | float, target: str = "cpu", opset: int = 21) -> ir.Model:
    """`columns` of the input x; what lies behind it has none."""
    made = model(text, opset)
    linears, _ = find_linears(made)
    fixed = columns if isinstance(columns, tuple) else ()
    outliers: dict[str, Any] = {one.name: (fixed if one.x.name == "x" else ()) for one in linears}
    tensors = {one.name: LlmInt8(6.0).solve(one.read(), outliers[one.name]) for one in linears}
    given = outliers if isinstance(columns, tuple) else dict.fromkeys(tensors, columns)
    matmulinteger.replace_linears(made, linears, tensors.__getitem__, given, target)
    return made


def dynamic(text: str = TEXT, bits: int = 8, group_size: int = PER_CHANNEL) -> ir.Model:
    made = model(text)
    linears, _ = find_linears(made)
    solver = RoundToNearest(Grid(bits, "absmax"), group_size)
    tensors = {one.name: solver.solve(one.read()) for one in linears}
    matmulinteger.replace_linears(made, linears, tensors.__getitem__, dict.fromkeys(tensors, None), "cpu")
    return made


def slowly(x: np.ndarray, weight: np.ndarray, columns: tuple[int, ...], whole: bool = False) -> np.ndarray:
    """The equations, one token and one output at a time. whole: the weights of outliers are codes too."""
    regular = [k for k in range(x.shape[1]) if k not in columns]
    scaled = range(x.shape[1]) if whole else regular
    y = np.zeros((len(x), weight.shape[1]))
    for o in range(weight.shape[1]):
        s_w = max(abs(weight[k, o]) for k in scaled) / 127
        code = {k: np.rint(weight[k, o] / s_w) for k in scaled}
        for t in range(len(x)):
            s_x = max(2.0**-100, *(abs(x[t, k]) for k in regular)) / 127
            integer = sum(int(np.rint(x[t, k] / s_x)) * int(code[k]) for k in regular)
            loud = sum(float(x[t, k]) * (code[k] * s_w if whole else float(weight[k, o])) for k in columns)
            y[t, o] = loud + s_x * s_w * integer
    return y


def error(ours: ir.Model, text: str = TEXT) -> float:
    found, expected = (laws.run(one, feeds(text))["y"].astype(float) for one in (ours, model(text)))
    return float(np.square(found - expected).sum() / np.square(expected).sum())


# --- the equations ---------------------------------------------------------------------------------------------------

ONE = "(float[N,24] x) => (float[N,16] y) { y = MatMul(x, w1) }"


@pytest.mark.parametrize("target", ["cpu", "cuda", "generic"])
@pytest.mark.parametrize("columns", [(), LOUD, 6.0], ids=["none", "calibrated", "at run time"])
def test_a_product_is_the_papers_equation(columns: tuple[int, ...] | float, target: str) -> None:
    x = feeds(ONE)["x"]
    found = laws.run(decomposed(ONE, columns, target), {"x": x})["y"]
    at_run_time = isinstance(columns, float)
    loud = LOUD if isinstance(columns, float) else columns
    expected = slowly(x, WEIGHTS["w1"], loud, whole=at_run_time)
    # Sums of float32 products, 24 long; a code on the edge of two may fall to its other side: one step of 127.
    steps = np.abs(x).max(1, initial=0, where=~np.isin(range(24), loud))[:, None] / 127 * np.abs(WEIGHTS["w1"]).max()
    assert (np.abs(found - expected) <= 1.01 * steps + 1e-5 * np.abs(expected).max()).all()
    assert np.mean(np.isclose(found, expected, rtol=1e-5, atol=1e-5)) > 0.95


@pytest.mark.parametrize("columns", [(), LOUD, 6.0], ids=["none", "calibrated", "at run time"])
def test_the_graph_is_what_the_layer_table_measures(columns: tuple[int, ...] | float) -> None:
    x, at_run_time = feeds(ONE)["x"], isinstance(columns, float)
    method, fixed = LlmInt8(6.0, at_run_time=at_run_time), [] if isinstance(columns, float) else list(columns)
    weight = torch.from_numpy(WEIGHTS["w1"])
    expected = method.product(torch.from_numpy(x), weight, method.solve(weight, fixed), fixed)
    found = laws.run(decomposed(ONE, columns), {"x": x})["y"]
    assert np.mean(np.isclose(found, expected.numpy(), rtol=1e-5, atol=1e-5)) > 0.95  # the rest: codes on an edge


def test_signed_and_unsigned_codes_say_the_same() -> None:
    """uint8 with a zero point of 128 is int8 moved: the sums are whole numbers and equal."""
    one, other = (laws.run(decomposed(TEXT, LOUD, target), feeds())["y"] for target in ("cpu", "cuda"))
    np.testing.assert_array_equal(one, other)


def test_outliers_cost_without_decomposition_and_nothing_with() -> None:
    """Columns three hundred times as loud leave the others one code or two of 127."""
    loud = feeds(ONE)["x"]
    loud[:, list(LOUD)] *= 10
    expected = loud.astype(float) @ WEIGHTS["w1"]
    plain, with_columns, at_run_time = (
        np.square(laws.run(decomposed(ONE, columns), {"x": loud})["y"] - expected).sum() for columns in ((), LOUD, 6.0)
    )
    assert with_columns < 1e-3 * plain  # 127 / (300 / 3) codes against 127: a hundred times the step, squared
    assert with_columns < at_run_time  # whose outliers meet weights of 8 bits


def test_no_outlier_at_run_time_is_no_product_of_nothing() -> None:
    found = laws.run(decomposed(ONE, 1e6), feeds(ONE))["y"]
    np.testing.assert_array_equal(found, laws.run(decomposed(ONE, ()), feeds(ONE))["y"])


# --- dynamic ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bits", "group_size"), [(8, PER_CHANNEL), (7, PER_CHANNEL), (8, PER_TENSOR)])
def test_dynamic_by_hand(bits: int, group_size: int) -> None:
    x = feeds(ONE)["x"]
    made = model(ONE)
    (linear,), _ = find_linears(made)
    tensor = RoundToNearest(Grid(bits, "absmax"), group_size).solve(linear.read())
    matmulinteger.replace_linears(made, [linear], {"w1": tensor}.__getitem__, {"w1": None}, "cpu")
    low, high = min(x.min(), 0), max(x.max(), 0)
    scale = (high - low) / 255
    codes = np.clip(np.rint(x / scale) + np.rint(-low / scale), 0, 255) - np.rint(-low / scale)
    expected = codes * scale @ tensor.dequantize().numpy()
    found = laws.run(made, {"x": x})["y"]
    step = scale * np.abs(WEIGHTS["w1"]).sum(0)  # a zero point on the edge of two moves every code by one
    assert (np.abs(found - expected) <= step + 1e-4).all()


# --- the graph -------------------------------------------------------------------------------------------------------

FORMS: dict[str, Any] = {
    "calibrated": lambda text: decomposed(text, LOUD),
    "signed": lambda text: decomposed(text, LOUD, "cuda"),
    "at run time": lambda text: decomposed(text, 6.0),
    "dynamic": dynamic,
}


@pytest.mark.parametrize("text", [TEXT, BIASED], ids=["shared input", "biased"])
@pytest.mark.parametrize("form", FORMS)
def test_the_graph_is_valid_and_its_interface_stays(form: str, text: str) -> None:
    made = FORMS[form](text)
    onnx.checker.check_model(laws.to_bytes(made), full_check=True)
    assert laws.interface(made) == laws.interface(model(text))
    assert not {"Gemm", "Transpose"} & {node.op_type for node in made.graph}
    assert not {"w1", "w2", "w3", "w4", "w5"} & made.graph.initializers.keys()
    assert laws.to_bytes(made) == laws.to_bytes(FORMS[form](text))
    assert error(made, text) < 0.02  # 8 bits against columns thirty times as loud, where one range holds all


@pytest.mark.parametrize("form", [*FORMS, "without outliers"])
def test_a_bias_is_added_once_in_the_session_that_serves(form: str) -> None:
    """ONNX Runtime 1.31.1 fuses a bias into integer products, and with a scale for each row multiplies it by that."""
    made = FORMS[form](BIASED) if form in FORMS else decomposed(BIASED, ())
    quiet = {"x": feeds(BIASED)["x"] / 100}  # the bias is most of what comes out
    served = open_session(made, "served").run(["y"], quiet)[0]
    # float32 sums in another order; a code of the second product may fall to its other side: one step of 127.
    np.testing.assert_allclose(served, laws.run(made, quiet)["y"], rtol=0, atol=0.02 * np.abs(served).max())


@pytest.mark.parametrize("columns", [None, LOUD, 6.0])
def test_codes_of_a_float16_graph_are_found_in_float32(columns: tuple[int, ...] | float | None) -> None:
    """DynamicQuantizeLinear takes nothing else; the interface stays float16."""
    text = "(float16[N,24] x) => (float16[N,16] y) { y = MatMul(x, w1) }"
    made = graphs.build(text, opset=21, w1=WEIGHTS["w1"].astype(np.float16))
    (linear,), _ = find_linears(made)
    tensor = LlmInt8(6.0).solve(linear.read().float(), columns if isinstance(columns, tuple) else ())
    matmulinteger.replace_linears(made, [linear], lambda name: tensor, {linear.name: columns}, "cpu")
    x = feeds(BIASED)["x"].astype(np.float16)
    found, expected = laws.run(made, {"x": x})["y"], x.astype(np.float32) @ WEIGHTS["w1"]
    assert found.dtype == np.float16
    assert np.abs(found - expected).max() < 0.02 * np.abs(expected).max()


@pytest.mark.parametrize("opset", [13, 17, 18])
def test_older_operator_sets_say_it_their_way(opset: int) -> None:
    made = decomposed(TEXT, LOUD, opset=opset)
    onnx.checker.check_model(laws.to_bytes(made), full_check=True)
    np.testing.assert_array_equal(laws.run(made, feeds())["y"], laws.run(decomposed(TEXT, LOUD), feeds())["y"])


def test_linears_of_one_input_share_its_codes() -> None:
    found = Counter(node.op_type for node in decomposed(TEXT, LOUD).graph)
    assert (found["MatMulInteger"], found["ReduceMax"], found["Gather"]) == (3, 2, 1)
    assert Counter(node.op_type for node in dynamic().graph)["DynamicQuantizeLinear"] == 2


def test_weights_are_stored_as_bytes() -> None:
    made = decomposed(TEXT, LOUD)
    kinds = Counter[str]()
    for value in made.graph.initializers.values():
        kinds[str(value.dtype)] += value.const_value.nbytes
    assert kinds["INT8"] == sum(WEIGHTS[name].size for name in ("w1", "w2", "w3"))
    assert kinds["FLOAT"] < 4 * (2 * 2 * 16 + 40 + 24 + 8)  # kept rows, scales, a mask, constants


def test_a_quantized_checkpoint_is_refused(tmp_path: Path) -> None:
    held = Artifact(tmp_path, "package", "key", {"facts": {"stored": "gptq"}})
    with pytest.raises(RequestError, match=r"quantized already \(gptq checkpoint\); name the float graph"):
        quantizing.quantize(held, recipe.build({"model": "x"}), tmp_path, identity)


def test_a_graph_that_is_quantized_already_is_refused() -> None:
    refuse_quantized(model(), Path("a.onnx"))
    with pytest.raises(RequestError, match=r"a\.onnx: quantized already \(3 x MatMulInteger\); name the float graph"):
        refuse_quantized(decomposed(TEXT, LOUD), Path("a.onnx"))
