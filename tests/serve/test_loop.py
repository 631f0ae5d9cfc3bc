"""The thread that owns a backend: whatever happens to it, all who wait are told."""

from __future__ import annotations

import queue
from collections.abc import Callable

import pytest

from compressor.serve.backend import Event, Request, Sampling
from compressor.serve.loop import ClosedError, Loop
from tests.serve.client import PATIENCE
from tests.serve.scripted import Scripted


class Breaking(Scripted):
    """A backend that breaks in its first step, once `more` requests were handed over that it has not seen."""

    def __init__(self, more: Callable[[], object]) -> None:
        super().__init__([5])
        self.more = more

    def step(self) -> list[Event]:
        self.more()
        raise OSError("no device")


def test_a_backend_that_breaks_is_told_to_all_who_wait() -> None:
    """Also to those whose request it had not seen."""
    told = queue.SimpleQueue[Event]()
    request = Request((5,), 4, Sampling(0.0, 1.0, 0))
    loop = Loop(lambda: Breaking(lambda: loop.submit(request, told.put)), 4, lambda *_: None)
    loop.start()
    loop.submit(request, told.put)
    events = [told.get(timeout=PATIENCE) for _ in range(2)]
    assert {(one.finish, one.error) for one in events} == {("failed", "the backend broke: no device")}
    with pytest.raises(ClosedError):
        loop.submit(request, told.put)
