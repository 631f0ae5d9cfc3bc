"""`compress bench --serving`: throughput, time to the first token and time for each after it, by number of streams.

A stream asks, reads its answer to the end, and asks again; so many do so at once. Prompts are random tokens that nobody
has seen before, so no prefix is shared. What is timed is the backend, in this process: HTTP comes on top.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from compressor.progress import Track, identity
from compressor.report import charts
from compressor.serve.backend import Backend, Event, Request
from compressor.serve.served import Served


@dataclass(frozen=True)
class Streams:
    """The points that are measured, and what every stream asks for."""

    counts: Sequence[int] = (1, 4, 16)
    lengths: Sequence[int] = (32, 128)  # tokens of a prompt
    new_tokens: int = 32
    answers: int = 4  # of each stream; the first of them is not counted, since all streams begin together
    backend: str = "engine"
    threads: int = 0


@dataclass(frozen=True)
class Load:
    """One artifact at one number of streams. Milliseconds; p95: one in twenty takes longer."""

    side: str
    prompt_tokens: int
    streams: int
    tokens_per_second: float
    first_token_ms: float
    first_token_p95_ms: float
    each_token_ms: float
    each_token_p95_ms: float


@dataclass
class Asked:
    """One answer while it comes: when it was asked for, and when its tokens came."""

    begun: float
    counted: bool
    came: list[float] = field(default_factory=list)

    @property
    def first(self) -> float:
        return self.came[0] - self.begun

    @property
    def each(self) -> float:
        return (self.came[-1] - self.came[0]) / max(len(self.came) - 1, 1)


def measure(sides: dict[str, Served], wanted: Streams, track: Track = identity) -> list[Load]:
    """Every artifact at every number of streams. Raises: RequestError when a request does not fit the model."""
    found: list[Load] = []
    for length, count in track([(size, count) for size in wanted.lengths for count in wanted.counts], "bench"):
        for name, served in sides.items():
            room = 2 * count * (length + wanted.new_tokens)  # half of it for blocks that are filled in part
            backend = served.backend(wanted.backend, served.limits(count, room, wanted.threads))()
            asked = _drive(backend, count, length, wanted)
            found.append(_load(name, length, count, asked))
    return found


def rows(loads: Sequence[Load]) -> list[dict[str, Any]]:
    """As a table, with the ratio to the rival where there is one."""
    ours = {(one.prompt_tokens, one.streams): one.tokens_per_second for one in loads if one.side == loads[0].side}
    with_rival = len({one.side for one in loads}) > 1
    return [
        asdict(one)
        | (
            {"artifact is faster by": ours[one.prompt_tokens, one.streams] / one.tokens_per_second}
            if with_rival
            else {}
        )
        for one in loads
    ]


def plots(loads: Sequence[Load]) -> list[str]:
    """What more streams bring, and what each of them pays for it."""
    found = []
    for title, unit, name in (("throughput", "tokens/s", "tokens_per_second"), ("a token", "ms", "each_token_ms")):
        series: dict[str, list[tuple[float, float]]] = {}
        for one in loads:
            series.setdefault(f"{one.side}, prompts of {one.prompt_tokens}", []).append(
                (one.streams, getattr(one, name))
            )
        found.append(charts.lines(f"{title} by streams", series, x="streams", y=unit))
    return found


def _load(side: str, length: int, count: int, asked: Sequence[Asked]) -> Load:
    begun, ended = min(one.begun for one in asked), max(one.came[-1] for one in asked)
    first = 1e3 * np.array([one.first for one in asked])
    each = 1e3 * np.array([one.each for one in asked])
    tokens = sum(len(one.came) for one in asked)
    return Load(
        side=side,
        prompt_tokens=length,
        streams=count,
        tokens_per_second=tokens / (ended - begun),
        first_token_ms=float(np.median(first)),
        first_token_p95_ms=float(np.percentile(first, 95)),
        each_token_ms=float(np.median(each)),
        each_token_p95_ms=float(np.percentile(each, 95)),
    )


def _drive(backend: Backend, count: int, length: int, wanted: Streams) -> list[Asked]:
    """Every stream asks again as soon as its answer has ended; the answers that count, once they have a token."""
    rng, under_way, counted = np.random.default_rng(0), dict[int, Asked](), list[Asked]()
    left = count * wanted.answers

    def ask() -> None:
        nonlocal left
        prompt = tuple(rng.integers(0, backend.vocab, length).tolist())
        number = backend.submit(Request(prompt, wanted.new_tokens))
        under_way[number] = Asked(time.perf_counter(), counted=left <= count * (wanted.answers - 1))
        left -= 1

    def hear(event: Event) -> None:
        one = under_way[event.number]
        if event.token is not None:
            one.came.append(time.perf_counter())
        if event.finish and one.counted and one.came:
            counted.append(one)
        if event.finish and left:
            ask()

    for _ in range(count):
        ask()
    while backend.busy:
        for event in backend.step():
            hear(event)
    return counted
