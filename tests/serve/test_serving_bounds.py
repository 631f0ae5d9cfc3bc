"""What `tests/bench/serving_bounds.py` counts is what the backends do."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from compressor.artifact import MODEL
from compressor.graph.paged_decoder import PAGED_MODEL
from compressor.serve.backend import Backend, Limits, Request, Tally
from compressor.serve.padded import Padded
from compressor.serve.reference import Reference
from tests.bench.serving_bounds import bounds, continuous, static
from tests.serve.conftest import Subject

LIMITS = Limits(num_blocks=64, block_size=16, max_batch=4, max_step_tokens=64, context=512, threads=1)
PROMPTS, WISHES = [7, 3, 12, 9, 5, 4, 8, 6, 3, 11], [4, 20, 6, 3, 1, 17, 5, 5, 9, 2]


def driven(backend: Backend) -> Tally:
    rng = np.random.default_rng(0)
    for prompt, wish in zip(PROMPTS, WISHES, strict=True):
        backend.submit(Request(tuple(rng.integers(2, 500, prompt).tolist()), wish))
    while backend.busy:
        backend.step()
    return backend.usage().tally


def test_the_calls_are_those_of_the_backends(tiny: Callable[[int | None], Subject]) -> None:
    """Nobody's text ends before its wish, and every prompt fits into the call that it begins in."""
    folder = tiny(4).folder
    waits, joins = static(PROMPTS, WISHES, 4), continuous(PROMPTS, WISHES, 4, LIMITS.max_step_tokens)
    assert driven(Padded(folder / MODEL, LIMITS, ())).steps == waits.calls
    tally = driven(Reference(folder / PAGED_MODEL, LIMITS, ()))
    assert (tally.steps, tally.rows, tally.prompt_tokens) == (joins.calls, joins.rows, joins.prompt_tokens)


def test_the_bound_by_hand() -> None:
    """Two batches of two: 5 and 4 calls, two rows each, prompts filled up to 3 and 6; joined, 11 tokens in 6 calls."""
    found = bounds([3, 1, 6, 2], [5, 1, 4, 1], batch=2, step_tokens=64)
    assert found["static"] == {"calls": 9, "rows": 18, "prompt_tokens": 18}
    assert found["continuous"] == {"calls": 6, "rows": 11, "prompt_tokens": 12}
    assert found["most"] == 1.64
