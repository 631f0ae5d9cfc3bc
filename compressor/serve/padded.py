"""Static batching: requests as rows of one padded batch on the contiguous graph; it ends when its longest row does.

    [_ _ 5 6]      shorter prompts are padded on the left, so that all rows take their next token in one column
    [1 2 3 4]      a row that has ended is computed on, as padding, and its place is free only with the whole batch

What continuous batching is measured against, and what runs a decoder whose attention cannot be paged.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from compressor.errors import RequestError
from compressor.graph.decoder import Decoder, DecoderSession
from compressor.graph.session import load_model, open_session
from compressor.serve.backend import Event, Limits, Request, Tally, Usage
from compressor.serve.sampling import choose


@dataclass(eq=False)
class Place:
    """A request and its row."""

    number: int
    request: Request
    rng: np.random.Generator
    new: list[int] = field(default_factory=list)
    ended: bool = False


class Padded:
    """The protocol of `backend.py`, without pages. Blocks are counted as what the rows reserve."""

    guides = False

    def __init__(self, graph: Path, limits: Limits, ends: Collection[int]) -> None:
        self.limits, self.ends = limits, frozenset(ends)
        sizes = Decoder.of(load_model(graph))
        if sizes is None:
            raise RequestError(f"{graph}: no decoder with a cache; nothing to generate with")
        self.session = DecoderSession(sizes, open_session(graph, "served", threads=limits.threads))
        self.vocab, self.tally = sizes.vocab, Tally()
        self.waiting: list[Place] = []
        self.cancelled: list[int] = []
        self.batch: list[Place] = []
        self.past: list[NDArray[np.generic]] | None = None
        self.column: NDArray[np.int64] = np.zeros((0, 0), np.int64)  # what is computed next, and what may be seen
        self.mask = self.column

    def submit(self, request: Request) -> int:
        self.limits.check(request, self.vocab)
        self.tally.requests += 1
        self.tally.prompt_tokens += len(request.prompt)
        rng = np.random.default_rng(request.sampling.seed)
        self.waiting.append(Place(self.tally.requests, request, rng))
        return self.tally.requests

    def cancel(self, number: int) -> None:
        for one in [one for one in (*self.waiting, *self.batch) if one.number == number and not one.ended]:
            one.ended = True
            self.cancelled.append(number)
        self.waiting = [one for one in self.waiting if not one.ended]
        self._end_if_all_have()

    @property
    def busy(self) -> bool:
        return bool(self.waiting or self.cancelled or self.batch)

    def usage(self) -> Usage:
        used = self._blocks(self.batch)
        return Usage(
            total_blocks=self.limits.num_blocks,
            free_blocks=self.limits.num_blocks - used,
            used_blocks=used,
            running=sum(not one.ended for one in self.batch),
            waiting=len(self.waiting),
            tally=replace(self.tally),
        )

    def step(self) -> list[Event]:
        events = [Event(number, finish="cancelled") for number in self.cancelled]
        self.cancelled.clear()
        if not self.batch:
            self._begin()
        if not self.batch:
            return events
        logits, self.past = self.session.step(self.column, self.mask, self.past)
        self.tally.steps += 1
        for one, scores in zip(self.batch, logits[:, -1], strict=True):
            if not one.ended:
                events.append(self._take(one, choose(scores, one.request.sampling, one.rng)))
        self.column = np.array([one.new[-1:] or [0] for one in self.batch], np.int64)
        self.mask = np.hstack([self.mask, [[not one.ended] for one in self.batch]])
        self._end_if_all_have()
        return events

    def _take(self, one: Place, token: int) -> Event:
        self.tally.rows += 1
        event = one.request.answer(one.number, token, len(one.new) + 1, self.ends)
        one.ended = event.finish is not None
        one.new += [] if event.token is None else [event.token]
        return event

    # --- a batch ------------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """The first requests that wait, as many as there are places and blocks for rows of their longest."""
        while self.waiting and len(self.batch) < self.limits.max_batch:
            if self.batch and self._blocks([*self.batch, self.waiting[0]]) > self.limits.num_blocks:
                break
            self.batch.append(self.waiting.pop(0))
        width = max((len(one.request.prompt) for one in self.batch), default=0)
        self.column = np.zeros((len(self.batch), width), np.int64)
        self.mask = np.zeros((len(self.batch), width), np.int64)
        for row, one in enumerate(self.batch):
            begin = width - len(one.request.prompt)
            self.column[row, begin:], self.mask[row, begin:] = one.request.prompt, 1

    def _blocks(self, batch: list[Place]) -> int:
        """Of rows that are all as long as the longest prompt and the longest output together."""
        prompt = max((len(one.request.prompt) for one in batch), default=0)
        wanted = max((one.request.new_tokens for one in batch), default=0)
        return len(batch) * -(-(prompt + wanted) // self.limits.block_size)

    def _end_if_all_have(self) -> None:
        if all(one.ended for one in self.batch):
            self.batch, self.past = [], None
