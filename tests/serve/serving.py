"""Requests that differ, and a backend driven until all have ended, its blocks counted after every step."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from compressor.serve.backend import Backend, Event, Request


@dataclass
class Outcome:
    """What a request got."""

    tokens: list[int] = field(default_factory=list)
    finish: str = ""
    cached_tokens: int = 0

    def add(self, event: Event) -> None:
        assert not self.finish, "an event after the last"
        self.tokens += [] if event.token is None else [event.token]
        self.finish, self.cached_tokens = event.finish or "", event.cached_tokens


def mixed(count: int, vocab: int, seed: int = 0) -> list[Request]:
    """Prompts of 1 to 70 tokens, more than half of them beginning like others."""
    rng = np.random.default_rng(seed)
    begins = [rng.integers(2, vocab, 40).tolist() for _ in range(3)]

    def prompt() -> tuple[int, ...]:
        shared = begins[rng.integers(3)][: rng.integers(0, 41)] if rng.random() < 0.6 else []
        return (*shared, *rng.integers(2, vocab, rng.integers(1, 30)).tolist())

    return [Request(prompt(), int(rng.integers(1, 30))) for _ in range(count)]


def serve(backend: Backend, requests: list[Request], arrival: float = 1.0) -> list[Outcome]:
    """All requests; before each step one more arrives with this chance, and another, until one does not."""
    rng, left, found = np.random.default_rng(1), list(requests), {}
    while left or backend.busy:
        while left and rng.random() <= arrival:
            found[backend.submit(left.pop(0))] = Outcome()
        for event in backend.step():
            found[event.number].add(event)
        usage = backend.usage()
        assert usage.free_blocks + usage.used_blocks == usage.total_blocks
    assert backend.usage().free_blocks == backend.limits.num_blocks
    return list(found.values())
