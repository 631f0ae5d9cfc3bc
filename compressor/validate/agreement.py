"""Agreement: the candidate's outputs against the reference's, where a decoder is really used.

    prefill      one prompt
    padded       batch 2, one row padded left and the other right; only real tokens are compared
    decode       one token at a time on a cache, each side on its own
    chunked      the prompt in two calls, the second on the cache of the first

Per case: largest difference of a logit, KL(reference || candidate) in nats (mean over positions), and the share of
positions whose most likely token is the same. The worst case speaks for the artifact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compressor.graph.decoder import DecoderSession
from compressor.recipe.limits import Agreement
from compressor.report.report import Measurement
from compressor.validate.subject import Subject

Logits = NDArray[np.floating]
Case = Callable[[DecoderSession, NDArray[np.int64], Agreement], Logits]


@dataclass(frozen=True)
class Distance:
    """How far two sets of logits lie apart."""

    case: str
    difference: float
    kl: float
    top1: float


def measure(
    candidate: Subject, reference: Subject, tokens: NDArray[np.int64] | None, options: Agreement
) -> list[Measurement]:
    """Worst case of each distance. tokens [2, length + decode_steps]: real text, or random ids when there is none."""
    theirs = reference.runner()
    if tokens is None:
        rng = np.random.default_rng(0)
        tokens = rng.integers(0, theirs.decoder.vocab, (2, options.length + options.decode_steps))
    distances = list(_distances(candidate.runner(), theirs, tokens, options))
    furthest = max(distances, key=lambda one: one.difference)
    divergent = max(distances, key=lambda one: one.kl)
    unlike = min(distances, key=lambda one: one.top1)
    return [
        Measurement("logit difference", furthest.difference, limit=options.max_difference, note=furthest.case),
        Measurement("KL to reference", divergent.kl, "nats", limit=options.max_kl, note=divergent.case),
        Measurement("top-1 agreement", unlike.top1, limit=options.min_top1, sense="at least", note=unlike.case),
    ]


def distance(case: str, candidate: Logits, reference: Logits) -> Distance:
    """Distances of logits [..., vocab]; anything not finite, on either side, is infinitely far."""
    ours, theirs = candidate.astype(np.float64), reference.astype(np.float64)
    if not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
        return Distance(case, float("inf"), float("inf"), 0.0)
    log_p, log_q = log_softmax(theirs), log_softmax(ours)
    kl = float((np.exp(log_p) * (log_p - log_q)).sum(-1).mean())
    top1 = float((ours.argmax(-1) == theirs.argmax(-1)).mean())
    return Distance(case, float(np.abs(ours - theirs).max()), max(kl, 0.0), top1)


def log_softmax(logits: Logits) -> Logits:
    """Over the last axis, without overflow."""
    shifted = logits - logits.max(-1, keepdims=True)
    result: Logits = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return result


def _distances(
    candidate: DecoderSession, reference: DecoderSession, tokens: NDArray[np.int64], options: Agreement
) -> Iterator[Distance]:
    for name, case in _CASES.items():
        yield distance(name, case(candidate, tokens, options), case(reference, tokens, options))


def _prefill(runner: DecoderSession, tokens: NDArray[np.int64], options: Agreement) -> Logits:
    return runner.logits(tokens[:1, : options.length])


def _padded(runner: DecoderSession, tokens: NDArray[np.int64], options: Agreement) -> Logits:
    ids = tokens[:, : options.length]
    pad = options.length // 3
    mask = np.ones_like(ids)
    mask[0, :pad], mask[1, -pad:] = 0, 0
    real: Logits = runner.logits(ids, mask)[mask.astype(bool)]
    return real


def _decode(runner: DecoderSession, tokens: NDArray[np.int64], options: Agreement) -> Logits:
    _, past = runner.step(tokens[:, : options.length])
    steps = []
    for at in range(options.length, options.length + options.decode_steps):
        logits, past = runner.step(tokens[:, at : at + 1], past=past)
        steps.append(logits)
    joined: Logits = np.concatenate(steps, 1)
    return joined


def _chunked(runner: DecoderSession, tokens: NDArray[np.int64], options: Agreement) -> Logits:
    half = options.length // 2
    first, past = runner.step(tokens[:1, :half])
    second, _ = runner.step(tokens[:1, half : options.length], past=past)
    return np.concatenate([first, second], 1)


_CASES: dict[str, Case] = {"prefill": _prefill, "padded": _padded, "decode": _decode, "chunked": _chunked}
