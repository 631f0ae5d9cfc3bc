"""Paged twin: what it says of ragged requests in chunks, against the contiguous graph on each request alone.

The scales of an 8-bit pool are made for the keys and values of text: there held-out text is read too, and random
tokens have a wider limit.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from compressor.data.calibration import Windows
from compressor.graph.paged_decoder import PAGED_MODEL, PagedSession, Row, for_this_machine, holds_codes
from compressor.graph.session import load_model
from compressor.recipe.limits import Paged
from compressor.report.report import Measurement
from compressor.validate.agreement import distance
from compressor.validate.subject import Subject

BLOCK_SIZE, BLOCKS = 4, 16
# Tokens that each request brings, call by call: a prefill beside a decode, a chunk over block borders, a lone step.
CALLS = ((5, 1, 3), (7, 0, 1), (1, 0, 10), (0, 1, 8))
SCATTERED = ((9, 2, 14, 5), (7,), (0, 11, 3, 12, 1, 8))  # blocks of each request: neither in order nor adjacent
CODES_APART = 10  # times as far as floats may be: 0.008 on tiny-lm, where a wrong block moves logits by halves
ROWS, CHUNK = 8, 16  # windows of text that are read together, and tokens of a call, the last of which is compared


def measure(candidate: Subject, options: Paged, windows: Windows | None = None) -> list[Measurement]:
    """Largest difference of a logit, in parts of the largest logit; nothing where there is no twin that runs here."""
    path = candidate.path.with_name(PAGED_MODEL)
    if candidate.decoder is None or not path.is_file() or not for_this_machine(twin := load_model(path)):
        return []
    paged, alone = PagedSession(path, BLOCKS, BLOCK_SIZE, fill=np.nan), candidate.runner()
    rng = np.random.default_rng(0)
    texts = [rng.integers(0, candidate.decoder.vocab, sum(each)) for each in zip(*CALLS, strict=True)]
    expected = [alone.logits(text[None])[0] for text in texts]
    worst = max(_difference(paged, texts, expected))
    largest = max(float(np.abs(logits).max()) for logits in expected)
    found = Measurement("paged logit difference", worst / largest, limit=options.max_difference)
    if not holds_codes(twin):
        return [found]
    wider = options.max_difference and CODES_APART * options.max_difference
    return [replace(found, limit=wider), *_on_text(candidate, twin, windows, options)]


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


def _on_text(candidate: Subject, twin: ir.Model, windows: Windows | None, options: Paged) -> list[Measurement]:
    """Mean KL of the twin from the contiguous graph on held-out text, at the last token of each chunk."""
    whole = [] if windows is None else [row for row, mask in zip(windows.ids, windows.mask, strict=True) if mask.all()]
    if not whole:
        return []
    texts = np.stack(whole[:ROWS])
    blocks = -(-texts.shape[1] // BLOCK_SIZE)
    paged = PagedSession(twin, len(texts) * blocks, BLOCK_SIZE)
    expected, gaps = candidate.runner().logits(texts), []
    for begin in range(0, texts.shape[1], CHUNK):
        parts = texts[:, begin : begin + CHUNK]
        own = [range(at * blocks, (at + 1) * blocks) for at in range(len(texts))]
        logits = paged.step([Row(part.tolist(), begin, list(row)) for part, row in zip(parts, own, strict=True)])
        gaps.append(distance("text", logits, expected[:, begin + parts.shape[1] - 1]).kl)
    return [Measurement("paged kl", float(np.mean(gaps)), "nats", limit=options.max_kl)]
