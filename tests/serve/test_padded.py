"""Static batching: each row says what it says alone, padded or not; a batch ends with its longest row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from compressor.artifact import MODEL
from compressor.errors import RequestError
from compressor.serve.backend import Limits, Request
from compressor.serve.padded import Padded
from compressor.serve.served import STATIC
from tests.serve.conftest import Subject
from tests.serve.serving import mixed, serve

ROOMY = Limits(num_blocks=512, block_size=16, max_batch=8, max_step_tokens=2048, context=512, threads=1)
CRAMPED = replace(ROOMY, num_blocks=10)  # a row of 70 tokens and one of 90, or three short ones
Tiny = Callable[[int | None], Subject]


@pytest.mark.parametrize("limits", [ROOMY, CRAMPED], ids=["roomy", "cramped"])
@pytest.mark.parametrize("bits", [None, 4], ids=["float32", "int4"])
def test_each_says_what_it_says_alone(bits: int | None, limits: Limits, tiny: Tiny) -> None:
    model = tiny(bits)
    requests = mixed(24, model.vocab)
    for request, found in zip(requests, serve(model.make(STATIC, limits), requests), strict=True):
        assert model.is_greedy(request, found.tokens, found.finish)


def test_a_batch_ends_with_its_longest_row(tiny: Tiny) -> None:
    """Two places; the third request waits for the second one's thirtieth token."""
    backend = tiny(None).make(STATIC, replace(ROOMY, max_batch=2))
    short, long, next_ = (backend.submit(Request((5, 6, 7), wanted)) for wanted in (2, 30, 2))
    steps = {}
    while backend.busy:
        steps |= {event.number: backend.usage().tally.steps for event in backend.step() if event.finish}
    assert steps[short] < steps[long] < steps[next_]
    assert backend.usage().tally.steps == steps[long] + 2


def test_a_row_that_has_ended_does_not_run_out_of_the_context(tiny: Tiny) -> None:
    """A prompt as long as the context allows, beside an output that long: together they would pass its end, and a
    model with a table of positions has none for it."""
    model = tiny(None)
    requests = [Request(tuple([5, 6, 7, 8] * 125), 4), Request((5, 6), 100)]
    backend = Padded(model.folder / MODEL, ROOMY, ())
    for request in requests:
        backend.submit(request)
    seen = 0
    while backend.busy:
        backend.step()
        seen = max(seen, *backend.mask.sum(axis=1, initial=0), 0)
    assert seen == 500 + 3  # its fourth token ends it and is not looked at any more


def test_who_leaves_leaves_no_trace(tiny: Tiny) -> None:
    model = tiny(None)
    requests, backend = mixed(12, model.vocab, seed=3), model.make(STATIC, ROOMY)
    numbers = [backend.submit(one) for one in requests]
    events = backend.step()
    gone = {numbers[1], numbers[11]}  # one runs, one waits
    for number in (*gone, 77):
        backend.cancel(number)
    while backend.busy:
        events += backend.step()
    for request, number in zip(requests, numbers, strict=True):
        own = [event for event in events if event.number == number]
        tokens = [event.token for event in own if event.token is not None]
        assert (own[-1].finish == "cancelled") == (number in gone)
        assert number in gone or model.is_greedy(request, tokens, str(own[-1].finish))
    assert backend.usage().free_blocks == ROOMY.num_blocks


def test_what_can_never_finish_is_refused(tiny: Tiny) -> None:
    with pytest.raises(RequestError, match="161"):
        tiny(None).make(STATIC, CRAMPED).submit(Request((5,) * 150, 11))
