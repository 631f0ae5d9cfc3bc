"""LLM.int8(): outliers found where they are, products as the paper's equation and bitsandbytes have them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compressor.graph.decoder import Feeds
from compressor.progress import identity
from compressor.quantize import decompose, store
from compressor.quantize.flow.linears import find_linears
from compressor.quantize.llm_int8 import LlmInt8
from compressor.quantize.statistics import ColumnMaximum
from tests import graphs
from tests.oracles import python_of

WEIGHT = torch.from_numpy(graphs.normal(32, 12))
LOUD = [5, 20]


def activations(tokens: int = 9) -> torch.Tensor:
    """Every value of two columns beyond 6, every other below."""
    x = torch.from_numpy(graphs.normal(tokens, 32)).clamp(-5, 5)
    x[:, LOUD] = (x[:, LOUD].abs() + 10) * x[:, LOUD].sign()
    return x


def test_outliers_are_columns_at_the_threshold_and_above() -> None:
    largest = ColumnMaximum(4)
    for batch in ([[1.0, -7, 2, 5.9]], [[0.0, 1, 6, -5.9]]):
        largest.add(torch.tensor(batch))
    assert largest.value.tolist() == [1, 7, 6, pytest.approx(5.9)]
    assert LlmInt8(6.0).outliers(largest.value) == [1, 2]
    assert LlmInt8(6.0, at_run_time=True).outliers(largest.value) == []


def test_codes_by_hand() -> None:
    weight = torch.tensor([[1.0, 0], [-0.5, 0], [100, 3]])
    solved = LlmInt8(6.0).solve(weight, [2])
    assert solved.scale.tolist() == [[pytest.approx(1 / 127), 1]]  # a column of zeros divides by 1
    assert (solved.q.int() - 128).tolist() == [[127, 0], [-64, 0], [0, 0]]  # 63.5 is a tie: to even
    assert (LlmInt8(6.0).solve(weight, []).q.int() - 128)[:, 0].tolist() == [1, -1, 127]


@pytest.mark.parametrize("at_run_time", [False, True])
def test_a_product_is_the_equation(at_run_time: bool) -> None:
    x, method = activations(), LlmInt8(6.0, at_run_time=at_run_time)
    outliers = [] if at_run_time else LOUD
    solved = method.solve(WEIGHT, outliers)
    regular = [k for k in range(32) if k not in LOUD]
    restored = (solved.q.double() - 128) * solved.scale.double()
    expected = torch.zeros(9, 12, dtype=torch.float64)
    for t in range(9):
        s_x = x[t, regular].abs().max() / 127
        codes = torch.round(x[t] / s_x)
        for o in range(12):
            loud = sum(x[t, k].double() * (restored if at_run_time else WEIGHT.double())[k, o] for k in LOUD)
            expected[t, o] = loud + sum(codes[k].double() * s_x.double() * restored[k, o] for k in regular)
    found = method.product(x, WEIGHT, solved, outliers)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-5)  # restored weights are float32


# --- bitsandbytes ----------------------------------------------------------------------------------------------------

THEIRS = """
import json, sys, torch, bitsandbytes.functional as F
given = json.load(sys.stdin)
x, w = (torch.tensor(given[name]) for name in ("x", "weight"))
codes, row, columns = F.int8_vectorwise_quant(x.half(), threshold=6.0)
weights, scale, _ = F.int8_vectorwise_quant(w.T.half().contiguous())
y = F.int8_linear_matmul(codes, weights)
y = F.int8_mm_dequant(y, row, scale).float()
print(json.dumps({"codes": codes.tolist(), "weights": weights.tolist(), "columns": columns.tolist(), "y": y.tolist()}))
"""


def test_bitsandbytes_has_the_same_columns_codes_and_products() -> None:
    """Its inputs are float16; where every value of an outlier column is one, both leave out the same."""
    x, weight = activations().half().float(), WEIGHT.half().float()
    given = json.dumps({"x": x.tolist(), "weight": weight.tolist()})
    ended = subprocess.run(
        [python_of("bitsandbytes"), "-c", THEIRS], input=given, capture_output=True, text=True, check=True
    )
    theirs: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    method = LlmInt8(6.0, at_run_time=True)
    solved = method.solve(weight, [])
    assert sorted(theirs["columns"]) == LOUD
    difference = (solved.q.int() - 128).T - torch.tensor(theirs["weights"])
    assert difference.abs().max() <= 1  # float16 scales: a code on the edge of two
    assert (difference != 0).float().mean() < 0.02
    regular = x.clone()
    regular[:, LOUD] = 0
    ours = method.product(regular, weight, solved, [])
    # 30 products of codes each off by at most one: 1 % of the largest; float16 has 11 bits, which is less.
    assert (ours - torch.tensor(theirs["y"])).abs().max() < 0.01 * ours.abs().max()


# --- on a graph ------------------------------------------------------------------------------------------------------

TEXT = "(float[N,32] x) => (float[N,8] y) { h = MatMul(x, w1)  r = Relu(h)  y = MatMul(r, w2) }"
WEIGHTS = {"w1": WEIGHT.numpy(), "w2": graphs.normal(12, 8)}


def batches() -> list[Feeds]:
    return [{"x": activations(40).numpy()}, {"x": activations(40).numpy()[::-1].copy()}]


def test_the_layer_table_has_the_columns_and_both_errors(tmp_path: Path) -> None:
    model = graphs.build(TEXT, opset=21, **WEIGHTS)
    linears, _ = find_linears(model)
    rows = decompose.with_outliers(model, linears, LlmInt8(6.0), batches(), folder=tmp_path, track=identity)
    first, second = rows
    assert (first["layer"], first["outliers"], first["outlier_columns"]) == ("w1", LOUD, 2)
    assert first["error"] < first["error_without"]
    x = torch.from_numpy(np.concatenate([batch["x"] for batch in batches()]))
    exact = (x.double() @ WEIGHT.double()).square().sum()
    for name, outliers in (("error", LOUD), ("error_without", [])):
        found = LlmInt8(np.inf).product(x, WEIGHT, LlmInt8(6.0).solve(WEIGHT, outliers), outliers)
        assert first[name] == pytest.approx(float((found - x.double() @ WEIGHT.double()).square().sum() / exact))
    hidden = torch.relu(x @ WEIGHT).abs().amax(0)
    assert second["outliers"] == torch.nonzero(hidden >= 6).flatten().tolist()
    stored = store.Reader(tmp_path).read("w1")
    assert (stored.bits, bool((stored.q[LOUD] == 128).all())) == (8, True)


def test_without_data_every_row_is_stored(tmp_path: Path) -> None:
    linears, _ = find_linears(graphs.build(TEXT, opset=21, **WEIGHTS))
    rows = decompose.without_data(linears, LlmInt8(6.0, at_run_time=True), folder=tmp_path, track=identity)
    assert [row["outlier_columns"] for row in rows] == [0, 0]
    assert all(0 < row["weight_error"] < 1e-4 for row in rows)  # half a step of 1/127, squared
