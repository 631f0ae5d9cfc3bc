"""A corrected weight is what the float model's outputs ask for, on the inputs that there are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from compressor.progress import identity
from compressor.quantize import solve, store
from compressor.quantize.flow import moments
from compressor.quantize.flow.linears import find_linears
from compressor.quantize.gptq import Gptq
from compressor.quantize.qtensor import Grid
from compressor.quantize.target import corrected
from tests import graphs, laws

DEEP = """(float[N,40] x) => (float[N,24] y) {
    a = MatMul(x, wa)  r = Relu(a)  b = MatMul(r, wb)  s = Relu(b)  y = MatMul(s, wc)
}"""


def inputs(tokens: int = 200, width: int = 9) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """X, X~ that has drifted from it, and a weight; float64."""
    generator = torch.Generator().manual_seed(0)
    X, noise, W = (torch.randn(n, m, generator=generator, dtype=torch.float64)
                   for n, m in ((tokens, width), (tokens, width), (width, 4)))  # fmt: skip
    return X, X + 0.3 * noise + 0.1 * X.roll(1, 1), W


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_equals_the_equations_typed_out(share: float) -> None:
    X, drifted, W = inputs()
    damping = 0.7 * np.eye(9)
    H, D = (drifted.T @ drifted).numpy() + damping, (drifted.T @ (X - drifted)).numpy()
    expected = W.numpy() + share * np.linalg.inv(H) @ D @ W.numpy()
    found = corrected(W, torch.from_numpy(H), torch.from_numpy(D), share)
    assert found is not None
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)  # float64, sums of 9


def test_whatever_is_rounded_the_two_losses_differ_by_a_constant() -> None:
    """|X W - X~ Q|^2 = |X~ (W' - Q)|^2 + const: a solver of the one is a solver of the other."""
    X, drifted, W = inputs()
    target = corrected(W, drifted.T @ drifted, drifted.T @ (X - drifted), 1.0)
    assert target is not None
    differences = []
    for seed in range(3):
        Q = W + torch.randn(W.shape, generator=torch.Generator().manual_seed(seed), dtype=W.dtype)
        asked, solved = (X @ W - drifted @ Q).square().sum(), (drifted @ (target - Q)).square().sum()
        differences.append(float(asked - solved))
    assert differences == pytest.approx([differences[0]] * 3, rel=1e-9)


def test_a_drift_that_is_no_number_corrects_nothing() -> None:
    _, drifted, W = inputs()
    assert corrected(W, drifted.T @ drifted, torch.full((9, 9), torch.nan), 1.0) is None
    assert corrected(W, -torch.eye(9), torch.eye(9), 1.0) is None


def test_what_is_not_corrected_is_a_fallback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weight is solved toward itself, as without a correction, and its row says so."""
    model = graphs.build(DEEP, opset=21, wa=graphs.normal(40, 48), wb=graphs.normal(48, 32), wc=graphs.normal(32, 24))
    linears, _ = find_linears(model)
    data = [{"x": graphs.normal(200, 40)}]
    monkeypatch.setattr(moments, "drift", lambda *_: torch.full((40, 40), torch.nan))
    rows = solve.with_data(
        model, linears, Gptq(Grid(4, "absmax"), -1), data, folder=tmp_path, track=identity, correction=0.5
    )
    assert [row["fallback"] for row in rows] == ["not corrected, its inputs' drift is not finite"] * 3


def test_a_corrected_graph_lies_nearer_to_the_float_one(tmp_path: Path) -> None:
    """Three layers at two bits, where inputs have drifted far by the last."""
    weights = {"wa": graphs.normal(40, 48), "wb": graphs.normal(48, 32), "wc": graphs.normal(32, 24)}
    rng = np.random.default_rng(1)
    data = [{"x": (rng.normal(size=(400, 40)) @ (np.tril(np.full((40, 40), 0.2)) + np.eye(40))).astype(np.float32)}]
    exact = laws.run(graphs.build(DEEP, opset=21, **weights), data[0])["y"]
    lost = {}
    for share in (0.0, 1.0):
        folder = tmp_path / str(share)
        folder.mkdir()
        model = graphs.build(DEEP, opset=21, **weights)
        linears, _ = find_linears(model)
        solver = Gptq(Grid(2, "symmetric", scale_search=True), -1, act_order=True)
        solve.with_data(model, linears, solver, data, folder=folder, track=identity, correction=share)
        rounded = {name: store.Reader(folder).read(name).dequantize().numpy() for name in weights}
        lost[share] = float(np.square(laws.run(graphs.build(DEEP, opset=21, **rounded), data[0])["y"] - exact).sum())
    assert lost[1.0] < 0.95 * lost[0.0]
