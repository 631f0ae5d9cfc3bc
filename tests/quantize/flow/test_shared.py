"""A weight that several products read is solved once, on all that it is multiplied by, and stored once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import Tensor

from compressor.graph.decoder import Feeds
from compressor.package import convolutions, matmulbnb4, matmulinteger, matmulnbits, qdq
from compressor.progress import identity
from compressor.quantize import decompose, prepare, sensitivity, solve, store
from compressor.quantize.codebook import Codebook
from compressor.quantize.flow.linears import Linear, find_linears
from compressor.quantize.gptq import Gptq
from compressor.quantize.llm_int8 import LlmInt8
from compressor.quantize.qtensor import Choice, Grid
from compressor.quantize.rtn import RoundToNearest
from tests import graphs, laws

GRID = Grid(4, "absmax")
# Two layers of one weight; the second sees other inputs, and louder ones.
TEXT = """(float[N,64] x) => (float[N,40] y) {
    h = MatMul(x, w)  c = Mul(h, loud)  r = Tanh(c)  s = Mul(r, loud)  g = Gemm(s, w, b)  y = MatMul(g, last)
}"""
WEIGHTS = {"w": graphs.normal(64, 64), "last": graphs.normal(64, 40)}
LOUD = np.where(np.arange(64) % 9, 1, 12).astype(np.float32)


@pytest.fixture(autouse=True)
def float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same on a machine with matrix units, where products are bfloat16."""
    for module in (solve, sensitivity):
        monkeypatch.setattr(module, "product_dtype", lambda device: torch.float32)


def model() -> ir.Model:
    return graphs.build(TEXT, opset=21, **WEIGHTS, b=graphs.normal(64), loud=LOUD)


def linears_of(made: ir.Model) -> list[Linear]:
    found, refused = find_linears(made)
    assert ([linear.name for linear in found], refused) == (["w", "last"], {})
    return found


def batches() -> list[Feeds]:
    rng = np.random.default_rng(0)
    mixing = np.tril(np.full((64, 64), 0.2)) + np.eye(64)
    return [{"x": (rng.normal(size=(150, 64)) @ mixing / 4).astype(np.float32)} for _ in range(2)]


def inputs_of_w() -> Tensor:
    """Both inputs of the weight in the float model, one below the other."""
    x = torch.cat([torch.from_numpy(batch["x"]) for batch in batches()])
    return torch.cat([x, torch.tanh(x @ torch.from_numpy(WEIGHTS["w"]) * LOUD) * LOUD])


def test_gptq_solves_it_on_the_moment_of_all_its_inputs(tmp_path: Path) -> None:
    solver, made = Gptq(GRID, 16), model()
    rows = solve.with_data(made, linears_of(made), solver, batches(), folder=tmp_path, track=identity)
    assert [row["layer"] for row in rows] == ["w", "last"]
    X, W = inputs_of_w(), torch.from_numpy(WEIGHTS["w"].copy())
    expected, found = solver.solve(W, X.T @ X), store.Reader(tmp_path).read("w")
    # float32 sums in another order may put a code that stands on an edge to its other side.
    assert float((found.q == expected.q).float().mean()) > 0.995
    first = X[: len(X) // 2]  # what a weight of one product would be solved on
    assert float((found.q == solver.solve(W, first.T @ first).q).float().mean()) < 0.95
    lost, power = (float((X @ one).square().sum()) for one in (found.dequantize() - W, W))
    assert rows[0]["error"] == pytest.approx(lost / power, rel=1e-2)


def test_what_follows_is_solved_on_both_products_with_the_rounded_weight(tmp_path: Path) -> None:
    solver, made = Gptq(GRID, 16), model()
    solve.with_data(made, linears_of(made), solver, batches(), folder=tmp_path, track=identity)
    w = store.Reader(tmp_path).read("w").dequantize()
    x = torch.cat([torch.from_numpy(batch["x"]) for batch in batches()])
    X = torch.tanh(x @ w * LOUD) * LOUD @ w + graphs.normal(64)
    expected = solver.solve(torch.from_numpy(WEIGHTS["last"].copy()), X.T @ X)
    assert float((store.Reader(tmp_path).read("last").q == expected.q).float().mean()) > 0.995


def test_a_correction_that_it_does_not_get_is_told(tmp_path: Path) -> None:
    made = model()
    linears, solver = linears_of(made), Gptq(GRID, 16)
    rows = solve.with_data(made, linears, solver, batches(), folder=tmp_path, track=identity, correction=0.5)
    assert [row["fallback"] for row in rows] == ["not corrected, several products read it", ""]


def test_weighted_scales_are_those_of_all_its_inputs(tmp_path: Path) -> None:
    solver, made = RoundToNearest(Grid(3, "symmetric", scale_search=True), 16, weighted=True), model()
    rows = solve.weighted(made, linears_of(made), solver, batches(), folder=tmp_path, track=identity)
    assert [row["layer"] for row in rows] == ["w", "last"]
    expected = solver.solve(torch.from_numpy(WEIGHTS["w"].copy()), inputs_of_w().square().sum(0))
    assert float((store.Reader(tmp_path).read("w").q == expected.q).float().mean()) > 0.995


def test_columns_that_are_loud_in_any_of_its_inputs_stay_float(tmp_path: Path) -> None:
    made = model()
    rows = decompose.with_outliers(made, linears_of(made), LlmInt8(6.0), batches(), folder=tmp_path, track=identity)
    loud = torch.nonzero(inputs_of_w().abs().amax(0) >= 6).flatten().tolist()
    first = torch.nonzero(inputs_of_w()[:300].abs().amax(0) >= 6).flatten().tolist()
    assert [row["layer"] for row in rows] == ["w", "last"]
    assert (rows[0]["outliers"], first) == (loud, [])


def test_its_loss_is_that_of_all_its_products() -> None:
    made, choice = model(), Choice(4, 16)
    linears = linears_of(made)
    found = sensitivity.measure(
        made, linears, lambda _: [choice], lambda bits: Grid(bits, "absmax"), batches(), identity
    )
    X, W = inputs_of_w().double(), torch.from_numpy(WEIGHTS["w"].copy())
    E = RoundToNearest(GRID, 16).solve(W).dequantize() - W
    lost, power = (float((X @ one.double()).square().sum()) for one in (E, W))
    assert found["w"][choice] == pytest.approx(lost / power, rel=1e-2)


def test_no_factor_is_folded_into_it() -> None:
    text = "(float[N,64] x) => (float[N,64] y) { l = Mul(x, loud)  h = MatMul(l, w)  r = Tanh(h)  y = MatMul(r, w) }"
    made = graphs.build(text, opset=21, w=WEIGHTS["w"], loud=LOUD)
    linears, _ = find_linears(made)
    assert prepare.scale_for_weights(made, linears, RoundToNearest(GRID, 16), batches(), identity) == []
    assert set(made.graph.initializers) == {"w", "loud"}


def _bnb4(made: ir.Model, linears: list[Linear], load: Callable[[str], Any]) -> None:
    matmulbnb4.replace_linears(made, linears, load)


def _nbits(made: ir.Model, linears: list[Linear], load: Callable[[str], Any]) -> None:
    matmulnbits.replace_linears(made, linears, load, 1)


FORMATS: dict[str, tuple[Callable[..., Any], Any]] = {
    "matmulnbits": (_nbits, RoundToNearest(GRID, 16)),
    "qdq": (qdq.replace_linears, RoundToNearest(GRID, 16)),
    "matmulbnb4": (_bnb4, Codebook("nf4", 16)),
}


@pytest.mark.parametrize("form", FORMATS)
def test_a_package_holds_it_once_and_multiplies_by_it_everywhere(form: str) -> None:
    pack, solver = FORMATS[form]
    made, plain = model(), model()
    tensors = {linear.name: solver.solve(linear.read()) for linear in linears_of(made)}
    for linear in linears_of(plain):
        linear.weight.const_value = ir.tensor(tensors[linear.name].dequantize().contiguous().numpy())
    pack(made, linears_of(made), tensors.__getitem__)
    held = [name for name in made.graph.initializers if name.startswith("w.")]
    assert len(held) == len(set(held)) == 2
    assert "w" not in made.graph.initializers
    feeds = batches()[0]
    laws.assert_same(laws.run(plain, feeds), laws.run(made, feeds))


@pytest.mark.parametrize("outliers", [None, (), (3, 5), 6.0])
def test_integer_products_of_it_share_codes_whatever_their_order(outliers: Any) -> None:
    """In the second layer the weights are read the other way round: codes of an input stand before both."""
    text = """(float[N,64] x) => (float[N,64] y) {
        a = MatMul(x, w)  c = MatMul(x, v)  h = Mul(a, c)  r = Tanh(h)
        d = MatMul(r, v)  e = MatMul(r, w)  y = Add(d, e)
    }"""
    weights = {"w": graphs.normal(64, 64) / 8, "v": graphs.normal(64, 64)[::-1].copy() / 8}
    made = graphs.build(text, opset=21, **weights)
    linears, _ = find_linears(made)
    kept = list(outliers) if isinstance(outliers, tuple) else []
    tensors = {one.name: LlmInt8(6.0).solve(one.read(), kept) for one in linears}
    sizes = matmulinteger.replace_linears(made, linears, tensors.__getitem__, dict.fromkeys("wv", outliers), "cpu")
    assert sizes == dict.fromkeys("wv", 64 * 64 + 64 * 4 + len(kept) * 64 * 4)
    feeds = batches()[0]
    exact = laws.run(graphs.build(text, opset=21, **weights), feeds)["y"]
    # 64 products of 8-bit codes, through two layers: 2 % of the largest.
    assert np.abs(laws.run(made, feeds)["y"] - exact).max() < 0.02 * np.abs(exact).max()


@pytest.mark.parametrize("form", FORMATS)
def test_a_product_with_a_constant_tells_nothing_and_reads_the_codes(form: str, tmp_path: Path) -> None:
    """Relative positions of DeBERTa: a table goes through the very weights that the tokens do, ahead of them."""
    text = """(float[N,64] x) => (float[N,9] y) {
        p = MatMul(table, w)  q = MatMul(x, w)  t = Transpose(p)  y = MatMul(q, t)
    }"""
    weights = {"w": WEIGHTS["w"], "table": graphs.normal(9, 64)}
    made, plain = (graphs.build(text, opset=21, **weights) for _ in range(2))
    ((linear,), refused) = find_linears(made)
    assert refused == {"table": "the left factor of a product"}
    assert [one.y.name for one in linear.everywhere] == ["q", "p"]
    solve.with_data(made, [linear], Gptq(GRID, 16), batches(), folder=tmp_path, track=identity)
    X = torch.cat([torch.from_numpy(batch["x"]) for batch in batches()])
    expected = Gptq(GRID, 16).solve(linear.read(), X.T @ X)
    assert float((store.Reader(tmp_path).read("w").q == expected.q).float().mean()) > 0.995
    pack, solver = FORMATS[form]
    tensor = solver.solve(linear.read())
    plain.graph.initializers["w"].const_value = ir.tensor(tensor.dequantize().contiguous().numpy())
    pack(made, [linear], {"w": tensor}.__getitem__)
    assert "w" not in made.graph.initializers
    feeds = batches()[0]
    laws.assert_same(laws.run(plain, feeds), laws.run(made, feeds))


def test_convolutions_share_a_kernel() -> None:
    text = """(float[N,8,9,9] x) => (float[N,8,9,9] y) {
        h = Conv<pads = [1, 1, 1, 1]>(x, w)  r = Relu(h)  y = Conv<pads = [1, 1, 1, 1]>(r, w, b)
    }"""
    weights = {"w": graphs.normal(8, 8, 3, 3), "b": graphs.normal(8)}
    made, plain = graphs.build(text, opset=21, **weights), graphs.build(text, opset=21, **weights)
    ((linear,), _), ((twin,), _) = (find_linears(one, convolutions=True) for one in (made, plain))
    tensor = RoundToNearest(GRID, 8).solve(linear.read())
    twin.weight.const_value = ir.tensor(twin.stored(tensor.dequantize()))
    convolutions.replace(made, linear, tensor)
    assert "w" not in made.graph.initializers
    feeds = laws.feeds_for(made, free_dimension=2)
    laws.assert_same(laws.run(plain, feeds), laws.run(made, feeds))


# Two kernels, each of which meets both values; one as pixels, one in windows of nine.
SHARED_KERNELS = """(float[N,4,9,9] x) => (float[N,4,9,9] y, float[N,8,9,9] z) {
    a = Conv<pads = [1, 1, 1, 1]>(x, wide)  r = Tanh(a)  y = Conv<pads = [1, 1, 1, 1]>(r, wide)
    b = Conv(x, narrow)  c = Conv(r, narrow)  z = Concat<axis = 1>(b, c)
}"""


def test_kernels_that_cut_the_same_values_into_other_windows_have_statistics_of_their_own(tmp_path: Path) -> None:
    weights = {"wide": graphs.normal(4, 4, 3, 3), "narrow": graphs.normal(4, 4, 1, 1)}
    made = graphs.build(SHARED_KERNELS, opset=21, **weights)
    found, _ = find_linears(made, convolutions=True)
    data = [{"x": np.random.default_rng(0).normal(size=(8, 4, 9, 9)).astype(np.float32)}]
    gptq = Gptq(GRID, 4)
    rows = solve.with_data(made, found, gptq, data, folder=tmp_path, track=identity)
    assert [(row["layer"], row["in"], row["fallback"]) for row in rows] == [("wide", 36, ""), ("narrow", 4, "")]
    x = torch.from_numpy(data[0]["x"])
    both = torch.cat([x, torch.tanh(torch.conv2d(x, torch.from_numpy(weights["wide"]), padding=1))])
    pixels = both.permute(0, 2, 3, 1).reshape(-1, 4)
    expected = gptq.factorise(pixels.T @ pixels).solve(next(one for one in found if one.name == "narrow").read())
    assert float((store.Reader(tmp_path).read("narrow").q == expected.q).float().mean()) > 0.95


@pytest.mark.parametrize("order", ["qv", "vq"])
def test_a_correction_is_lost_by_the_weight_that_is_read_twice_and_by_no_other(order: str, tmp_path: Path) -> None:
    """Both meet the same data; one meets a table of constants too."""
    products = {"q": "a = MatMul(x, q)  t = MatMul(table, q)", "v": "c = MatMul(x, v)"}
    text = f"""(float[N,64] x) => (float[N,40] y) {{
        {products[order[0]]} {products[order[1]]}
        s = Add(a, t)  y = Add(s, c)
    }}"""
    made = graphs.build(text, opset=21, q=graphs.normal(64, 40), v=graphs.normal(64, 40), table=graphs.normal(1, 64))
    found, _ = find_linears(made)
    rows = solve.with_data(made, found, Gptq(GRID, 16), batches(), folder=tmp_path, track=identity, correction=0.5)
    told = {row["layer"]: row["fallback"] for row in rows}
    assert told == {"q": "not corrected, several products read it", "v": ""}


@pytest.mark.parametrize("method", ["gptq", "rtn, weighted", "llm_int8"])
def test_a_weight_that_meets_the_same_data_twice_has_one_row(method: str, tmp_path: Path) -> None:
    text = "(float[N,64] x) => (float[N,40] y, float[N,40] z) { y = MatMul(x, w)  z = MatMul(x, w) }"
    made = graphs.build(text, opset=21, w=graphs.normal(64, 40))
    found, _ = find_linears(made)
    given: dict[str, Any] = {"batches": batches(), "folder": tmp_path, "track": identity}
    solvers: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "gptq": lambda: solve.with_data(made, found, Gptq(GRID, 16), **given),
        "rtn, weighted": lambda: solve.weighted(made, found, RoundToNearest(GRID, 16, weighted=True), **given),
        "llm_int8": lambda: decompose.with_outliers(made, found, LlmInt8(6.0), **given),
    }
    assert [row["layer"] for row in solvers[method]()] == ["w"]
