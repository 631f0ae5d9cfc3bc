"""SmoothQuant: what makes activations hard to quantize is moved into the weights, which are easy.

    Xiao, Lin, Seznec, Wu, Demouth, Han: SmoothQuant, 2022 (arXiv 2211.10438), section 4.

    X W   =  (X / s) (s W)                                     s: one factor for each row of W
    s_j   =  max|X_j|^alpha / max|W_j|^(1 - alpha)             alpha 0.5, or the best of a grid over [0, 1]

With a grid the error of the product of 8-bit integers is measured on some tokens,  |X W - Q(X / s) Q(s W)|^2, Q(X) with
one scale for all, Q(W) with one a column; s = 1 takes part, so that nothing is made worse. All weights that read one
input share its s, max|W_j| being over all of them; X / s is folded into what makes X (`scaling.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from compressor.quantize.statistics import column_step

STEPS = 20
LARGEST_CODE = 127
SMALLEST = 1e-5  # of a maximum: a silent input, or a row of zeros, is not scaled to nothing


class Smoothed(NamedTuple):
    """Factors [in], the exponent that gave them (None: s = 1), and the squared error with them and without."""

    scale: Tensor
    alpha: float | None
    error: float
    plain_error: float


def search(weights: Sequence[Tensor], sample: Tensor, largest: Tensor, alpha: float | None) -> Smoothed:
    """The factors for weights [in, out] that share an input; `sample` [tokens, in], max|X_j| over all data [in].

    alpha: the exponent; None: the best of the grid.
    """
    whole = torch.cat([weight[:, :: column_step(weight.shape[1])] for weight in weights], 1)
    loudest = torch.cat(list(weights), 1).abs().amax(1)
    plain = torch.ones_like(largest)
    exponents = [step / STEPS for step in range(STEPS + 1)] if alpha is None else [alpha]
    tried = [(error(whole, sample, largest, scale), one, scale) for one in exponents
             for scale in [factors(largest, loudest, one)]]  # fmt: skip
    without = error(whole, sample, largest, plain)
    found, chosen, scale = min(tried, key=lambda one: one[0])
    if alpha is None and found >= without:
        return Smoothed(plain, None, without, without)
    return Smoothed(scale, chosen, found, without)


def factors(largest: Tensor, loudest: Tensor, alpha: float) -> Tensor:
    """s of one exponent; 1 for an input that is never heard."""
    scale = largest.clamp_min(SMALLEST) ** alpha / loudest.clamp_min(SMALLEST) ** (1 - alpha)
    return torch.where(largest > 0, scale.clamp(SMALLEST, 1 / SMALLEST), torch.ones_like(scale))


def error(weight: Tensor, sample: Tensor, largest: Tensor, scale: Tensor) -> float:
    """Squared error of the outputs where weights and activations are 8-bit integers."""
    x, w = sample / scale, weight * scale[:, None]
    coded = _rounded(x, (largest / scale).max()) @ _rounded(w, w.abs().amax(0, keepdim=True))
    return float((coded - sample @ weight).square().sum(dtype=torch.float64))


def _rounded(values: Tensor, largest: Tensor) -> Tensor:
    step = torch.where(largest > 0, largest / LARGEST_CODE, torch.ones_like(largest))
    return (values / step).round().clamp(-LARGEST_CODE, LARGEST_CODE) * step
