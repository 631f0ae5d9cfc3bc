"""Perplexity: exp of the mean negative log likelihood of held-out tokens, each predicted from those before it."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from compressor.data.calibration import Windows
from compressor.graph.decoder import DecoderSession
from compressor.progress import Track, identity
from compressor.recipe.limits import Perplexity
from compressor.report.report import Measurement
from compressor.validate.agreement import log_softmax
from compressor.validate.subject import Subject

LOGITS_BYTES = 1 << 26  # of one call: what a batch may hold in logits
LARGEST_NATS = 709.0  # exp of more is no float64


def measure(
    candidate: Subject,
    reference: Subject,
    windows: Windows,
    options: Perplexity,
    *,
    rounded: Subject | None = None,
    track: Track = identity,
) -> list[Measurement]:
    """Perplexity of candidate and reference on the same windows, and of plain rounding where it is asked for."""
    theirs = of(reference.runner(), windows, track, "perplexity, reference")
    ours = of(candidate.runner(), windows, track, "perplexity, artifact")
    found = [
        Measurement("perplexity", ours, reference=theirs, limit=options.max_value, note=str(windows.facts["source"])),
        Measurement("perplexity increase", ours / theirs - 1, limit=options.max_increase),
    ]
    if rounded is not None:
        rounding = of(rounded.runner(), windows, track, "perplexity, rounding")
        limit = rounding if options.below_rounding else None
        found.append(Measurement("perplexity against rounding", ours, reference=rounding, limit=limit))
    return found


def of(runner: DecoderSession, windows: Windows, track: Track = identity, text: str = "perplexity") -> float:
    """Perplexity of one model; padding is neither read nor predicted."""
    total, width = 0.0, windows.ids.shape[1]
    rows = max(1, LOGITS_BYTES // (4 * width * runner.decoder.vocab))
    for start in track(range(0, len(windows.ids), rows), text):
        total += _negative_log_likelihood(runner, windows.ids[start : start + rows], windows.mask[start : start + rows])
    nats = total / windows.predicted
    return math.inf if nats > LARGEST_NATS else math.exp(nats)


def _negative_log_likelihood(runner: DecoderSession, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> float:
    """Sum over the predicted tokens of a batch, in nats."""
    log_p = log_softmax(runner.logits(ids, mask)[:, :-1])
    chosen = np.take_along_axis(log_p, ids[:, 1:, None], -1)[..., 0].astype(np.float64)
    return float(-chosen[mask[:, 1:].astype(bool)].sum())
