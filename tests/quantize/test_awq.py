from __future__ import annotations

import numpy as np
import pytest
import torch

from compressor.quantize import awq
from compressor.quantize.qtensor import Grid
from compressor.quantize.rtn import RoundToNearest
from tests import laws

ROWS = laws.rows_for(32)


def layer() -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
    """Two weights of one input; some of its channels are ten times as loud, as in trained networks."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, ROWS)) @ np.tril(0.9 ** np.abs(np.subtract.outer(range(ROWS), range(ROWS))))
    x[:, rng.choice(ROWS, 6, replace=False)] *= 10
    weights = [torch.from_numpy(rng.normal(size=(ROWS, columns))) for columns in (5, 8)]
    tokens = torch.from_numpy(x)
    return weights, tokens.T @ tokens, tokens.abs().mean(0)


def rounding(bits: int) -> awq.Rounding:
    solver = RoundToNearest(Grid(bits, "absmax"), 32)
    return lambda weight: solver.solve(weight).dequantize().double()


def slowly(weights: list[torch.Tensor], moment: torch.Tensor, magnitude: torch.Tensor, bits: int) -> tuple[float, int]:
    """The least error of the grid over alpha, typed out, and its step."""
    errors = []
    for step in range(20):
        s = magnitude.numpy() ** (step / 20)
        s = s / np.sqrt(s.max() * s.min())
        error = 0.0
        for weight in weights:
            rounded = rounding(bits)(torch.from_numpy(s)[:, None] * weight).numpy() / s[:, None]
            E = weight.numpy() - rounded
            error += np.trace(E.T @ moment.numpy() @ E)
        errors.append(error)
    return min(errors), int(np.argmin(errors))


@pytest.mark.parametrize("bits", [4, 3, 2])
def test_equals_the_paper_typed_out(bits: int) -> None:
    weights, moment, magnitude = layer()
    found = awq.search(weights, moment, magnitude, rounding(bits))
    error, step = slowly(weights, moment, magnitude, bits)
    assert found.error == pytest.approx(error, rel=1e-9)  # float64 sums in another order
    assert found.alpha == step / 20
    assert found.error < found.plain_error  # loud channels are what it is for


def test_where_nothing_is_gained_nothing_is_scaled() -> None:
    weights, _, _ = layer()
    found = awq.search(weights, 3 * torch.eye(ROWS, dtype=torch.float64), torch.ones(ROWS).double(), rounding(4))
    assert (found.alpha, found.error) == (0, found.plain_error)
    assert torch.equal(found.scale, torch.ones(ROWS).double())


def test_a_silent_input_gives_numbers() -> None:
    weights, moment, magnitude = layer()
    moment[3], moment[:, 3], magnitude[3] = 0, 0, 0
    found = awq.search(weights, moment, magnitude, rounding(3))
    assert bool(found.scale.isfinite().all())
    assert bool((found.scale > 0).all())
    assert found.error <= found.plain_error
