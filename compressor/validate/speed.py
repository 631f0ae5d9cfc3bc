"""Speed: tokens a second of prefill and decode, candidate and reference in turn, the median of the repeats."""

from __future__ import annotations

import statistics
import time

import numpy as np
from numpy.typing import NDArray

from compressor.graph.decoder import DecoderSession
from compressor.recipe.limits import Speed
from compressor.report.report import Measurement
from compressor.validate.subject import Subject


def measure(candidate: Subject, reference: Subject, options: Speed) -> list[Measurement]:
    """Both sides run as served, batch 1, and take turns, so that another load on the machine meets both."""
    runners = (candidate.runner(served=True), reference.runner(served=True))
    ids = np.random.default_rng(0).integers(0, runners[0].decoder.vocab, (1, options.prompt))
    laps = [[_lap(runner, ids, options) for runner in runners] for _ in range(options.repeats + 1)][1:]  # one to warm
    (prefill, decode), (prefill_reference, decode_reference) = (
        tuple(statistics.median(lap[side][part] for lap in laps) for part in (0, 1)) for side in (0, 1)
    )
    unit = "tokens/s"
    return [
        Measurement("prefill speed", prefill, unit, reference=prefill_reference, sense="at least"),
        Measurement("decode speed", decode, unit, reference=decode_reference, sense="at least"),
        Measurement("decode ratio", decode / decode_reference, limit=options.min_decode_ratio, sense="at least"),
    ]


def _lap(runner: DecoderSession, ids: NDArray[np.int64], options: Speed) -> tuple[float, float]:
    """Tokens a second of one prompt and of the tokens after it."""
    begin = time.perf_counter()
    logits, past = runner.step(ids)
    prefilled = time.perf_counter()
    for _ in range(options.new_tokens):
        logits, past = runner.step(logits[:, -1:].argmax(-1), past=past)
    end = time.perf_counter()
    return ids.size / (prefilled - begin), options.new_tokens / (end - prefilled)
