"""Paged twin: what it says of ragged requests in chunks, against the contiguous graph on each request alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from compressor.paged_decoder import PAGED_MODEL, PagedSession, Row, for_this_machine
from compressor.recipe import Paged
from compressor.report import Measurement
from compressor.session import load_model
from compressor.validate.subject import Subject

BLOCK_SIZE, BLOCKS = 4, 16
# Tokens that each request brings, call by call: a prefill beside a decode, a chunk over block borders, a lone step.
CALLS = ((5, 1, 3), (7, 0, 1), (1, 0, 10), (0, 1, 8))
SCATTERED = ((9, 2, 14, 5), (7,), (0, 11, 3, 12, 1, 8))  # blocks of each request: neither in order nor adjacent


def measure(candidate: Subject, options: Paged) -> list[Measurement]:
    """Largest difference of a logit, in parts of the largest logit; nothing where there is no twin that runs here."""
    path = candidate.path.with_name(PAGED_MODEL)
    if candidate.decoder is None or not path.is_file() or not for_this_machine(load_model(path)):
        return []
    paged, alone = PagedSession(path, BLOCKS, BLOCK_SIZE, fill=np.nan), candidate.runner()
    rng = np.random.default_rng(0)
    texts = [rng.integers(0, candidate.decoder.vocab, sum(each)) for each in zip(*CALLS, strict=True)]
    expected = [alone.logits(text[None])[0] for text in texts]
    worst = max(_difference(paged, texts, expected))
    largest = max(float(np.abs(logits).max()) for logits in expected)
    return [Measurement("paged logit difference", worst / largest, limit=options.max_difference)]


def _difference(
    paged: PagedSession, texts: list[NDArray[np.int64]], expected: list[NDArray[np.float32]]
) -> list[float]:
    """The same tokens, all requests together, call by call."""
    done, found = [0] * len(texts), []
    for counts in CALLS:
        taking = [index for index, count in enumerate(counts) if count]
        rows = [Row(texts[at][done[at] : done[at] + counts[at]].tolist(), done[at], SCATTERED[at]) for at in taking]
        for at, logits in zip(taking, paged.step(rows), strict=True):
            done[at] += counts[at]
            gap = float(np.abs(logits - expected[at][done[at] - 1]).max())
            found.append(gap if np.isfinite(gap) else float("inf"))
    return found
