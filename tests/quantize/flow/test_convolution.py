"""A convolution as a product: the same numbers, one moment for each window, and GPTQ beats rounding on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from compressor.package import matmulnbits, qdq
from compressor.progress import identity
from compressor.quantize import solve, store
from compressor.quantize.flow import convolution
from compressor.quantize.flow.linears import find_linears
from compressor.quantize.flow.segments import segments
from compressor.quantize.gptq import Gptq
from compressor.quantize.machine.memory import Scratch
from compressor.quantize.qtensor import PER_CHANNEL, PER_TENSOR, Grid
from compressor.quantize.rtn import RoundToNearest
from compressor.quantize.statistics import SecondMoment
from tests import graphs, laws

# Strides, asymmetric pads, dilations, a 1 x 1 kernel, two windows on one input, a bias; then the matrix behind it all.
TEXT = """(float[N,8,9,11] x) => (float[N,5] y) {
    a = Conv<strides = [2, 1], pads = [1, 0, 2, 1]>(x, wa, ba)  r = Relu(a)
    p = Conv<dilations = [2, 1], pads = [1, 1, 0, 1]>(r, wp)  q = Conv<pads = [0, 1, 1, 1]>(r, wq)
    g = GlobalAveragePool(p)  h = GlobalAveragePool(q)  s = Add(g, h)
    f = Flatten(s)  y = Gemm<transB = 1>(f, wy, by)
}"""
WEIGHTS = {
    "wa": graphs.normal(12, 8, 3, 3),
    "ba": graphs.normal(12),
    "wp": graphs.normal(7, 12, 2, 3),
    "wq": graphs.normal(7, 12, 1, 2),
    "wy": graphs.normal(5, 7),
    "by": graphs.normal(5),
}
NAMES = ["wa", "wp", "wq", "wy"]


def build() -> ir.Model:
    return graphs.build(TEXT, opset=21, **WEIGHTS)


def pictures(rows: int, seed: int = 0) -> np.ndarray:
    """Neighbouring pixels are alike, as in pictures."""
    white = np.random.default_rng(seed).normal(size=(rows, 8, 9, 11))
    return np.cumsum(np.cumsum(white, 2), 3).astype(np.float32) / 5


def test_a_convolution_is_the_product_of_its_windows() -> None:
    model, x = build(), pictures(3)
    linears, refused = find_linears(model, convolutions=True)
    assert ([linear.name for linear in linears], refused) == (NAMES, {})
    first = linears[0]
    assert first.shape == (72, 12)
    assert first.window is not None
    (windows,) = first.window.unfold(torch.from_numpy(x))
    model.graph.outputs[0] = first.y
    (expected,) = laws.run(model, {"x": x}).values()
    bias = first.read_bias()
    assert bias is not None
    product = (windows @ first.read() + bias).reshape(3, -1, 12).transpose(1, 2).reshape(expected.shape)
    np.testing.assert_allclose(product, expected, rtol=1e-4, atol=1e-4)  # sums of 72 products in another order
    np.testing.assert_allclose(
        first.product(torch.from_numpy(x), first.read(), Scratch()), expected, rtol=1e-4, atol=1e-4
    )
    np.testing.assert_array_equal(first.stored(first.read()), WEIGHTS["wa"])


def test_two_windows_of_one_input_have_a_moment_each() -> None:
    linears, _ = find_linears(made := build(), convolutions=True)
    assert [tuple(one.name for one in segment.linears) for segment in segments(made, linears)] == [(n,) for n in NAMES]


@pytest.mark.parametrize(
    ("conv", "refused"),
    [
        ("Conv<group = 2>(x, half)", "a convolution in groups, each with inputs of its own"),
        ('Conv<auto_pad = "SAME_UPPER">(x, whole)', "a convolution whose padding is not stated"),
        ("Conv(x, whole, computed)", "a convolution with a computed bias"),
        ("Conv(line, sound)", "a convolution of 1-dimensional data, no pictures"),
        ("Conv(fine, double)", "a convolution of type double"),
    ],
)
def test_a_convolution_is_left_alone_for_a_reason(conv: str, refused: str) -> None:
    inputs = "float[N,8,9,11] x, float[N,8,9] line, double[N,8,9,11] fine, float[4] computed"
    weights = {"half": graphs.normal(4, 4, 3, 3), "whole": graphs.normal(4, 8, 3, 3), "sound": graphs.normal(4, 8, 3)}
    weights["double"] = graphs.normal(4, 8, 3, 3, dtype=float)
    model = graphs.build(f"({inputs}) => (float[N,M,H,W] y) {{ y = {conv} }}", opset=21, **weights)
    linears, reasons = find_linears(model, convolutions=True)
    assert (linears, list(reasons.values())) == ([], [refused])
    (reason,) = find_linears(model)[1].values()
    assert reason == "a convolution, which this method, package or target leaves float"


def test_gptq_sees_every_window_and_beats_rounding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solve, "product_dtype", lambda device: torch.float32)
    made, data = build(), [{"x": pictures(8, seed)} for seed in range(3)]
    linears, _ = find_linears(made, convolutions=True)
    solver = Gptq(Grid(4, "absmax"), 32)
    rows = solve.with_data(made, linears, solver, data, folder=tmp_path, track=identity)
    assert [row["layer"] for row in rows] == NAMES
    assert all(row["error"] <= row["rounding_error"] for row in rows)
    assert rows[0]["error"] < 0.8 * rows[0]["rounding_error"]
    assert linears[0].window is not None
    moment = SecondMoment(72)
    for batch in data:
        for windows in linears[0].window.unfold(torch.from_numpy(batch["x"])):
            moment.add(windows)
    expected = solver.solve(linears[0].read(), moment.value())
    # float32 sums in another order may put a code that stands on an edge to its other side.
    assert float((store.Reader(tmp_path).read("wa").q == expected.q).float().mean()) > 0.99


def test_windows_come_in_pieces_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution, "PIECE_BYTES", 1)
    first, *_ = find_linears(build(), convolutions=True)[0]
    assert first.window is not None
    pieces = list(first.window.unfold(torch.from_numpy(pictures(3))))
    assert len(pieces) == 3
    monkeypatch.undo()
    (whole,) = first.window.unfold(torch.from_numpy(pictures(3)))
    assert torch.equal(torch.cat(pieces), whole)


@pytest.mark.parametrize("group_size", [PER_CHANNEL, PER_TENSOR, 32])
@pytest.mark.parametrize("scheme", ["absmax", "zero_point"])
@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("form", ["qdq", "matmulnbits"])
def test_a_packed_convolution_is_the_one_with_dequantized_weights(
    form: str, bits: int, scheme: str, group_size: int
) -> None:
    solver, packed, plain = RoundToNearest(Grid(bits, scheme), group_size), build(), build()
    linears, _ = find_linears(packed, convolutions=True)
    tensors = {linear.name: solver.solve(linear.read()) for linear in linears}
    for linear in find_linears(plain, convolutions=True)[0]:
        linear.weight.const_value = ir.tensor(linear.stored(tensors[linear.name].dequantize()))
    if form == "qdq":
        qdq.replace_linears(packed, linears, tensors.__getitem__)
    else:
        matmulnbits.replace_linears(packed, linears, tensors.__getitem__, accuracy_level=1)
    onnx.checker.check_model(laws.to_bytes(packed), full_check=True)
    assert not packed.graph.initializers.keys() & set(NAMES)
    feeds = {"x": pictures(2)}
    (expected,), (output,) = laws.run(plain, feeds).values(), laws.run(packed, feeds).values()
    # The same products, summed in another order.
    np.testing.assert_allclose(output, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
