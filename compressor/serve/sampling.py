"""Choose the next token: the most likely, or one drawn from the smallest set that holds `top_p` of the probability."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from compressor.serve.backend import Sampling


def choose(logits: NDArray[np.float32], sampling: Sampling, rng: np.random.Generator) -> int:
    """logits [vocab] of one request; `rng` is the request's own, so its neighbours do not change its draws."""
    if sampling.temperature == 0:
        return int(logits.argmax())
    with np.errstate(over="ignore"):  # at a temperature of next to nothing all but the most likely are at -inf
        scaled = (logits - logits.max()).astype(np.float64) / sampling.temperature
    likely = np.argsort(-scaled, kind="stable")
    weights = np.exp(scaled[likely])
    before = (weights.cumsum() - weights) / weights.sum()
    weights[before >= sampling.top_p] = 0  # the first always stays: nothing is before it
    return int(rng.choice(likely, p=weights / weights.sum()))
