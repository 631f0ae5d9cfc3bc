from __future__ import annotations

import numpy as np
import pytest
import torch

from compressor.quantize import smoothquant

ROWS, TOKENS = 48, 64


def layer() -> tuple[list[torch.Tensor], torch.Tensor]:
    """Two weights of one input, in which three channels are 40 times as loud."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(TOKENS, ROWS))
    x[:, [3, 20, 41]] *= 40
    return [torch.from_numpy(rng.normal(size=(ROWS, columns))) for columns in (5, 8)], torch.from_numpy(x)


def coded(values: np.ndarray, largest: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values / largest * 127), -127, 127) * largest / 127


@pytest.mark.parametrize("alpha", [0.25, 0.5, 0.9])
def test_equals_the_paper_typed_out(alpha: float) -> None:
    weights, sample = layer()
    found = smoothquant.search(weights, sample, sample.abs().amax(0), alpha)
    x, w = sample.numpy(), np.concatenate([one.numpy() for one in weights], 1)
    s = np.array([np.abs(x[:, j]).max() ** alpha / np.abs(w[j]).max() ** (1 - alpha) for j in range(ROWS)])
    np.testing.assert_allclose(found.scale, s, rtol=1e-12)
    scaled = coded(x / s, np.abs(x / s).max()) @ coded(w * s[:, None], np.abs(w * s[:, None]).max(0))
    assert found.error == pytest.approx(np.square(scaled - x @ w).sum(), rel=1e-9)
    plain = coded(x, np.abs(x).max()) @ coded(w, np.abs(w).max(0))
    assert found.plain_error == pytest.approx(np.square(plain - x @ w).sum(), rel=1e-9)


def test_the_best_exponent_is_no_worse_than_any_and_than_none() -> None:
    weights, sample = layer()
    largest = sample.abs().amax(0)
    best = smoothquant.search(weights, sample, largest, None)
    others = [smoothquant.search(weights, sample, largest, step / 20).error for step in range(21)]
    assert best.error == min(others) < best.plain_error / 4  # what the paper is about: 40 times are 5 of 7 bits
    even = torch.ones_like(sample)
    assert smoothquant.search([weights[0] * 0 + 1], even, even[0], None).alpha is None


def test_silent_inputs_and_rows_of_zeros_give_numbers() -> None:
    weights, sample = layer()
    sample[:, 7] = 0
    for weight in weights:
        weight[9] = 0
    found = smoothquant.search(weights, sample, sample.abs().amax(0), None)
    assert bool(found.scale.isfinite().all())
    assert float(found.scale[7]) == 1
    assert found.error <= found.plain_error
