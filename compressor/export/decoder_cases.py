"""The ways a decoder is called, each held to what torch says of the same texts read alone.

    prefill, batch 1 and 3      odd lengths
    padded                      one row padded left, one right; only real tokens are compared
    decode                      a left-padded prompt, then three steps on the cache of the call before
    chunked                     the prompt in two calls

One forward of torch over [3, length] unpadded, uncached tokens answers all of them: a decoder never looks ahead.
A graph without a cache is called in the first two ways.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from compressor.export.proof import Case, Outputs, Run
from compressor.graph.decoder import LOGITS, Decoder, Feeds

ROWS, PROMPT, STEPS = 3, 11, 3
LENGTH = PROMPT + STEPS

Ids = NDArray[np.int64]
Feed = Callable[[Ids, Ids], Feeds]  # tokens and mask -> the inputs of a call


def texts(vocab: int) -> Ids:
    """Random tokens [3, length], the same each time."""
    return np.random.default_rng(0).integers(0, vocab, (ROWS, LENGTH))


def cases(decoder: Decoder, ids: Ids, logits: NDArray[np.floating]) -> list[Case]:
    """ids [3, length], logits [3, length, vocab] as torch gives them without cache or padding."""
    prompt = ids.shape[1] - STEPS
    return [
        *reading(decoder.feeds, ids, logits),
        _decode(decoder, ids, logits, prompt),
        Case("chunked", _in_calls(decoder, ids[:1, :prompt], [prompt // 3]), {LOGITS: logits[:1, :prompt]}),
    ]


def reading(feeds: Feed, ids: Ids, logits: NDArray[np.floating]) -> list[Case]:
    """The calls that need no cache."""
    prompt = ids.shape[1] - STEPS
    return [
        Case("prefill", _prefill(feeds, ids[:1, :prompt]), {LOGITS: logits[:1, :prompt]}),
        Case("prefill of 3", _prefill(feeds, ids), {LOGITS: logits}),
        _padded(feeds, ids[:, :prompt], logits),
    ]


def _prefill(feeds: Feed, ids: Ids) -> Callable[[Run], Outputs]:
    return lambda run: {LOGITS: run(feeds(ids, np.ones_like(ids)))[LOGITS]}


def _padded(feeds: Feed, ids: Ids, logits: NDArray[np.floating]) -> Case:
    """Row 0 moves right behind its padding, row 1 ends early."""
    pad = ids.shape[1] // 3
    mask, moved = np.ones_like(ids), ids.copy()
    mask[0, :pad], mask[1, -pad:] = 0, 0
    moved[0, pad:] = ids[0, :-pad]
    real = mask.astype(bool)
    expected = np.concatenate([logits[row, : kept.sum()] for row, kept in enumerate(real)])
    return Case("padded", lambda run: {LOGITS: run(feeds(moved, mask))[LOGITS][real]}, {LOGITS: expected})


def _decode(decoder: Decoder, ids: Ids, logits: NDArray[np.floating], prompt: int) -> Case:
    """Row 0 has two tokens less behind two of padding; every row goes on for three steps."""
    pad = 2
    mask, moved = np.ones_like(ids), ids.copy()
    mask[0, :pad] = 0
    moved[0, pad:] = ids[0, :-pad]
    real = mask.astype(bool)
    expected = np.concatenate([logits[row, : kept.sum()] for row, kept in enumerate(real)])
    answer = _in_calls(decoder, moved, list(range(prompt, ids.shape[1])), mask)
    return Case("decode", lambda run: {LOGITS: answer(run)[LOGITS][real]}, {LOGITS: expected})


def _in_calls(decoder: Decoder, ids: Ids, cuts: list[int], mask: Ids | None = None) -> Callable[[Run], Outputs]:
    """The same tokens in several calls, each on the cache that the one before returned."""
    every = np.ones_like(ids) if mask is None else mask

    def answer(run: Run) -> Outputs:
        past, begin, parts = None, 0, []
        for end in (*cuts, ids.shape[1]):
            outputs = run(decoder.feeds(ids[:, begin:end], every[:, :end], past))
            past = [outputs[name] for name in decoder.present_names]
            parts.append(outputs[LOGITS])
            begin = end
        return {LOGITS: np.concatenate(parts, 1)}

    return answer
