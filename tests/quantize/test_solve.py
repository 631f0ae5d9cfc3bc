"""Where solver, graph and data meet: each weight solved on what reaches it, and a row that says how it went."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch

from compressor.graph.decoder import Feeds
from compressor.progress import identity
from compressor.quantize import solve, store
from compressor.quantize.flow.linears import find_linears
from compressor.quantize.gptq import Gptq
from compressor.quantize.qtensor import Choice, Grid, QTensor
from compressor.quantize.rtn import RoundToNearest
from compressor.quantize.statistics import SecondMoment
from tests import graphs

SOLVER = Gptq(Grid(4, "absmax"), 16)
TEXT = "(float[N,72] x) => (float[N,40] y) { a = MatMul(x, wa)  c = MatMul(x, wc)  h = Mul(a, c)  y = MatMul(h, wy) }"
WEIGHTS = {"wa": graphs.normal(72, 40), "wc": graphs.normal(72, 40)[::-1].copy(), "wy": graphs.normal(40, 40)}


@pytest.fixture(autouse=True)
def float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same on a machine with matrix units, where products are bfloat16."""
    monkeypatch.setattr(solve, "product_dtype", lambda device: torch.float32)


def model(**weights: np.ndarray) -> ir.Model:
    return graphs.build(TEXT, opset=21, **{**WEIGHTS, **weights})


def batches(rows: int = 200) -> list[Feeds]:
    """Two, of inputs that follow each other."""
    rng = np.random.default_rng(0)
    mixing = np.tril(np.full((72, 72), 0.3)) + np.eye(72)
    return [{"x": (rng.normal(size=(rows, 72)) @ mixing).astype(np.float32)} for _ in range(2)]


def with_data(solver: Gptq, data: list[Feeds], folder: Path, **weights: np.ndarray) -> list[dict[str, Any]]:
    linears, _ = find_linears(made := model(**weights))
    return solve.with_data(made, linears, solver, data, folder=folder, track=identity)


def share_of_equal_codes(one: QTensor, other: QTensor) -> float:
    return float((one.q == other.q).float().mean())


def test_each_weight_is_solved_on_what_reaches_it(tmp_path: Path) -> None:
    """The last one sees the errors of those before it."""
    rows, tensors = with_data(SOLVER, data := batches(), tmp_path), store.Reader(tmp_path)
    assert [row["layer"] for row in rows] == ["wa", "wc", "wy"]
    inputs = torch.cat([torch.from_numpy(batch["x"]) for batch in data])
    products = inputs @ tensors.read("wa").dequantize() * (inputs @ tensors.read("wc").dequantize())
    for name, X in {"wa": inputs, "wc": inputs, "wy": products}.items():
        moment = SecondMoment(X.shape[1])
        moment.add(X)
        expected = SOLVER.solve(torch.from_numpy(WEIGHTS[name]), moment.value())
        # float32 sums in another order may put a code that stands on an edge to its other side.
        assert share_of_equal_codes(tensors.read(name), expected) > 0.995


def test_a_row_says_how_it_went(tmp_path: Path) -> None:
    rows = with_data(SOLVER, batches(), tmp_path)
    assert [(row["in"], row["out"]) for row in rows] == [(72, 40), (72, 40), (40, 40)]
    for row in rows:
        assert 0 < row["error"] < row["rounding_error"] < 0.1
        assert (row["flags"], row["fallback"], row["silent_inputs"], row["damping"]) == ([], "", 0, 0.01)


def test_the_errors_of_a_row_are_those_of_the_outputs(tmp_path: Path) -> None:
    (row, *_), data = with_data(SOLVER, batches(), tmp_path), batches()
    X, W = torch.cat([torch.from_numpy(batch["x"]) for batch in data]).double(), torch.from_numpy(WEIGHTS["wa"])
    solved = {
        "error": store.Reader(tmp_path).read("wa"),
        "rounding_error": RoundToNearest(SOLVER.grid, SOLVER.group_size).solve(W),
    }
    for name, tensor in solved.items():
        lost = (X @ (tensor.dequantize() - W).double()).square().sum() / (X @ W.double()).square().sum()
        assert row[name] == pytest.approx(float(lost), rel=1e-3)  # sums of 400 tokens in float32, and a difference


def test_the_table_is_written_as_it_will_be_read(tmp_path: Path) -> None:
    with_data(SOLVER, batches(), tmp_path)
    tensor = store.Reader(tmp_path).read("wy")
    assert (tensor.shape, tensor.bits, tensor.group_size) == ((40, 40), 4, 16)
    assert tensor.scale.shape == tensor.zero.shape == (3, 40)


def test_silent_inputs_are_counted(tmp_path: Path) -> None:
    data = batches()
    for batch in data:
        batch["x"][:, [3, 50, 71]] = 0
        batch["x"][:, 4] *= 1e-3  # a whisper is no silence
    assert [row["silent_inputs"] for row in with_data(SOLVER, data, tmp_path)] == [3, 3, 0]


def test_a_second_try_is_told(tmp_path: Path) -> None:
    data: list[Feeds] = [{"x": np.ones((50, 72), np.float32)}]  # every input says the same
    rows = with_data(dataclasses.replace(SOLVER, damping=1e-9), data, tmp_path)
    assert rows[0]["fallback"] == f"damping raised to {rows[0]['damping']:g}"
    assert rows[0]["damping"] > 1e-9


def test_a_moment_that_is_no_number_falls_back_to_rounding(tmp_path: Path) -> None:
    data = batches()
    data[1]["x"][7, 7] = np.nan
    rows = with_data(SOLVER, data, tmp_path)
    rounding = RoundToNearest(SOLVER.grid, SOLVER.group_size)
    for row in rows:
        assert row["fallback"] == "rounded, not positive definite with damping 100"
        assert row["damping"] is row["error"] is row["rounding_error"] is None  # JSON has no NaN
        solved = store.Reader(tmp_path).read(row["layer"])
        assert torch.equal(solved.q, rounding.solve(torch.from_numpy(WEIGHTS[row["layer"]])).q)


def test_data_that_is_zero_everywhere_falls_back_to_rounding(tmp_path: Path) -> None:
    data = batches()
    for batch in data:
        batch["x"][:] = 0
    rows = with_data(SOLVER, data, tmp_path)
    assert rows[0]["fallback"] == "rounded, its input is zero on all of the data"


class Careless(Gptq):
    """A solver that throws the weights away."""

    def factorise(self, moment: torch.Tensor) -> Any:
        def nothing(weight: torch.Tensor) -> QTensor:
            solved = RoundToNearest(self.grid, self.group_size).solve(weight)
            return dataclasses.replace(solved, q=torch.full_like(solved.q, 8))

        return SimpleNamespace(solve=nothing, damping=self.damping)


def test_a_solver_that_does_harm_is_flagged(tmp_path: Path) -> None:
    (row, *_) = with_data(Careless(SOLVER.grid, SOLVER.group_size), batches(), tmp_path)
    assert row["flags"] == ["constant", "worse than rounding"]
    assert row["error"] == pytest.approx(1)  # all of the output is lost


def test_a_weight_that_is_no_number_is_flagged(tmp_path: Path) -> None:
    broken = WEIGHTS["wa"].copy()
    broken[5, 5] = np.inf
    rows = with_data(SOLVER, batches(), tmp_path, wa=broken)
    assert "not finite" in rows[0]["flags"]
    assert rows[1]["flags"] == []
    linears, _ = find_linears(model(wa=broken))
    rounded = solve.without_data(linears, RoundToNearest(SOLVER.grid, 16), "rtn", folder=tmp_path, track=identity)
    assert "not finite" in rounded[0]["flags"]


def test_without_data_every_weight_is_rounded(tmp_path: Path) -> None:
    solver = RoundToNearest(Grid(4, "zero_point"), 16)
    linears, _ = find_linears(model())
    rows = solve.without_data(linears, solver, "rtn", folder=tmp_path, track=identity)
    for row, (name, weight) in zip(rows, WEIGHTS.items(), strict=True):
        expected = solver.solve(W := torch.from_numpy(weight))
        assert torch.equal(store.Reader(tmp_path).read(name).dequantize(), expected.dequantize())
        lost = float((expected.dequantize() - W).square().sum() / W.square().sum())
        assert row["weight_error"] == pytest.approx(lost, rel=1e-6)
        assert (row["layer"], row["flags"], row["fallback"]) == (name, [], "")


def test_a_weight_of_zeros_is_flagged_and_its_error_is_a_number(tmp_path: Path) -> None:
    linears, _ = find_linears(model(wa=np.zeros((72, 40), np.float32)))
    (row, *_) = solve.without_data(linears, RoundToNearest(SOLVER.grid, 16), "rtn", folder=tmp_path, track=identity)
    assert (row["flags"], row["weight_error"]) == (["constant"], 0.0)


def test_bfloat16_products_cost_the_solver_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = with_data(SOLVER, batches(), tmp_path)
    monkeypatch.setattr(solve, "product_dtype", lambda device: torch.bfloat16)
    for row, reference in zip(with_data(SOLVER, batches(), tmp_path), exact, strict=True):
        # Statistics with 8 bits of mantissa choose other codes here and there; the gain over rounding stays.
        assert row["error"] < 1.05 * reference["error"] < row["rounding_error"]


def test_a_weight_with_a_grid_of_its_own_is_solved_on_it_and_its_neighbour_is_not(tmp_path: Path) -> None:
    """wa and wc share an input: one factorisation, two grids."""
    linears, _ = find_linears(made := model())
    own = {"wc": Choice(8, 32)}
    rows = solve.with_data(made, linears, SOLVER, batches(), folder=tmp_path, track=identity, own=own)
    assert [(row["bits"], row["group_size"]) for row in rows] == [(4, 16), (8, 32), (4, 16)]
    moment = SecondMoment(72)
    for batch in batches():
        moment.add(torch.from_numpy(batch["x"]))
    value = moment.value()
    for name, solver in (("wa", SOLVER), ("wc", Gptq(Grid(8, "absmax"), 32))):
        expected = solver.solve(torch.from_numpy(WEIGHTS[name].copy()), value)
        assert share_of_equal_codes(store.Reader(tmp_path).read(name), expected) > 0.995
    rounded = solve.without_data(
        linears, RoundToNearest(SOLVER.grid, 16), "rtn", folder=tmp_path, track=identity, own=own
    )
    assert [(row["bits"], row["group_size"]) for row in rounded] == [(4, 16), (8, 32), (4, 16)]


def test_weighted_rounding_is_never_worse_than_plain_on_the_data(tmp_path: Path) -> None:
    data = batches()
    for batch in data:
        batch["x"][:, ::9] *= 12  # loud inputs: what the weights are for
    linears, _ = find_linears(made := model())
    solver = RoundToNearest(Grid(3, "symmetric", scale_search=True), 16, weighted=True)
    rows = solve.weighted(made, linears, solver, data, folder=tmp_path, track=identity)
    assert all(row["error"] <= row["rounding_error"] and row["flags"] == [] for row in rows)
    assert rows[0]["error"] < rows[0]["rounding_error"]
    power = sum(torch.from_numpy(batch["x"]).square().sum(0) for batch in data)
    expected = solver.solve(torch.from_numpy(WEIGHTS["wa"].copy()), torch.diag(power))
    assert share_of_equal_codes(store.Reader(tmp_path).read("wa"), expected) == 1
