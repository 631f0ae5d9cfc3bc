"""AWQ: inputs that are loud get a finer grid, by scaling their weights up before rounding and the inputs down.

    Lin, Tang, Tang, Yang, Dang, Gan, Han: AWQ, 2023 (arXiv 2306.00978), section 3.2.

    X W  =  (X / s) (s W)                                      s: one factor for each row of W
    s    =  mean|X|^alpha                                      alpha on a grid of 20 over [0, 1]
    minimise over alpha   |X W - (X / s) Q(s W)|^2  =  trace(E^T H E),    E = W - Q(s W) / s,    H = X^T X

alpha = 0 is s = 1: where nothing is gained nothing is scaled. All weights that read one input share its s. As in the
authors' code s is divided by sqrt(max s * min s), so that the weights keep their size; X / s costs nothing, for it is
folded into what makes X (`scaling.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from compressor.quantize.statistics import column_step, energy

STEPS = 20
SMALLEST = 1e-4  # of a mean magnitude: an input that never spoke is not scaled to nothing

Rounding = Callable[[Tensor], Tensor]  # a weight [in, out] -> what it becomes on the grid


class Scaled(NamedTuple):
    """Factors [in], the exponent that gave them, and the squared output error with them and without."""

    scale: Tensor
    alpha: float
    error: float
    plain_error: float


def search(weights: Sequence[Tensor], moment: Tensor, magnitude: Tensor, rounding: Rounding) -> Scaled:
    """The best factors for weights [in, out] that share an input with this second moment and mean magnitude.

    Searched on some columns of each weight; what is returned was compared with s = 1 on all of them.
    """
    some = torch.cat([weight[:, :: column_step(weight.shape[1])] for weight in weights], 1)
    exponents = [step / STEPS for step in range(STEPS)]
    errors = [error(some, moment, factors(magnitude, alpha), rounding) for alpha in exponents]
    alpha = exponents[errors.index(min(errors))]
    whole, scale = torch.cat(list(weights), 1), factors(magnitude, alpha)
    found = error(whole, moment, scale, rounding)
    plain = found if alpha == 0 else error(whole, moment, factors(magnitude, 0), rounding)
    return Scaled(scale, alpha, found, plain) if found < plain else Scaled(torch.ones_like(scale), 0.0, plain, plain)


def factors(magnitude: Tensor, alpha: float) -> Tensor:
    """s of one exponent, around 1."""
    scale = magnitude.clamp_min(SMALLEST) ** alpha
    return scale / (scale.max() * scale.min()).sqrt()


def error(weight: Tensor, moment: Tensor, scale: Tensor, rounding: Rounding) -> float:
    """Squared error of the outputs on the calibration data."""
    scaled = rounding(weight * scale[:, None]) / scale[:, None]
    return energy(moment, weight - scaled)
