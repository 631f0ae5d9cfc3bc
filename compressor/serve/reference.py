"""Continuous batching in the open: a scheduler over our own block pool. The oracle of the tests, and a place to read.

    a request  20 tokens, 16 a block; blocks = [7, 2]: position p lies in block blocks[p // 16], slot p % 16
    a step     Row(tokens[computed : computed + n], past=computed, blocks) of each that runs -> logits of its last token

That is PagedAttention (Kwon et al. 2023, arXiv 2309.06180): a cache that grows by blocks from anywhere in the pool
wastes less than one block a request, and a full block may have several holders. `blocks.py` counts them,
`package/paging.py` is the attention that finds its keys through them. What is left for this file is who runs, and what
happens when no block is free.

A step has a budget of tokens. Running requests come first, oldest first: one token each, or the next chunk of a prompt.
A request that needs a block when none is free sends the youngest back to the queue (preemption by recompute: its
blocks are freed, its tokens kept and computed again). Then the queue moves up, unless somebody was just sent back.

A prompt begins with the blocks that others have filled (`blocks.py`). While somebody is still computing a prefix that
a waiting request shares, that request is held: a moment later it finds the blocks instead of computing them too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from compressor.graph.paged_decoder import PagedSession, Row
from compressor.serve.backend import Event, Limits, Request, Tally, Usage
from compressor.serve.blocks import BlockPool, chain
from compressor.serve.sampling import choose


@dataclass(eq=False)
class Sequence:
    """A request under way: its tokens so far, the blocks it holds, and how many tokens lie in them."""

    number: int
    request: Request
    tokens: list[int]
    rng: np.random.Generator
    blocks: list[int] = field(default_factory=list)
    hashes: list[bytes] = field(default_factory=list)
    computed: int = 0
    cached_tokens: int = 0
    named: int = 0  # of its blocks, those whose content the pool knows

    @property
    def generated(self) -> int:
        return len(self.tokens) - len(self.request.prompt)


class Reference:
    """The protocol of `backend.py` on ONNX Runtime alone."""

    guides = False

    def __init__(self, graph: Path, limits: Limits, ends: Collection[int]) -> None:
        self.limits, self.ends = limits, frozenset(ends)
        self.session = PagedSession(graph, limits.num_blocks, limits.block_size, threads=limits.threads)
        self.vocab = self.session.vocab
        self.pool = BlockPool(limits.num_blocks)
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []  # oldest first
        self.cancelled: list[int] = []
        self.tally = Tally()

    def submit(self, request: Request) -> int:
        self.limits.check(request, self.vocab)
        self.tally.requests += 1
        self.tally.prompt_tokens += len(request.prompt)
        rng = np.random.default_rng(request.sampling.seed)
        self.waiting.append(Sequence(self.tally.requests, request, list(request.prompt), rng))
        return self.tally.requests

    def cancel(self, number: int) -> None:
        for queue in (self.waiting, self.running):
            for one in [one for one in queue if one.number == number]:
                queue.remove(one)
                self._let_go(one)
                self.cancelled.append(number)

    @property
    def busy(self) -> bool:
        return bool(self.waiting or self.running or self.cancelled)

    def usage(self) -> Usage:
        return Usage(
            total_blocks=self.pool.total,
            free_blocks=len(self.pool.free),
            used_blocks=self.pool.used,
            running=len(self.running),
            waiting=len(self.waiting),
            tally=replace(self.tally),
        )

    def step(self) -> list[Event]:
        ended = [Event(number, finish="cancelled") for number in self.cancelled]
        self.cancelled.clear()
        scheduled = self._schedule()
        if not scheduled:
            return ended
        rows = [Row(one.tokens[one.computed : one.computed + n], one.computed, one.blocks) for one, n in scheduled]
        logits = self.session.step(rows)
        self.tally.steps += 1
        self.tally.rows += len(rows)
        for (one, count), scores in zip(scheduled, logits, strict=True):
            one.computed += count
            self._name_full_blocks(one)
            if one.computed == len(one.tokens):  # else a chunk of its prompt, whose logits mean nothing yet
                ended.append(self._next(one, choose(scores, one.request.sampling, one.rng)))
        return ended

    # --- who runs, and how many tokens each ---------------------------------------------------------------------------

    def _schedule(self) -> list[tuple[Sequence, int]]:
        budget, before = self.limits.max_step_tokens, self.tally.preemptions
        scheduled: dict[Sequence, int] = {}
        for one in list(self.running):
            count = min(len(one.tokens) - one.computed, budget)
            if one not in self.running or not count or not self._make_room(one, count, scheduled):
                continue
            scheduled[one] = count
            budget -= count
        if self.tally.preemptions == before:
            scheduled |= dict(self._admit(budget))
        return list(scheduled.items())

    def _make_room(self, one: Sequence, count: int, scheduled: dict[Sequence, int]) -> bool:
        """Take the blocks for the next tokens; the youngest goes back to the queue until there are enough."""
        missing = self._blocks(one.computed + count) - len(one.blocks)
        while missing > len(self.pool.free):
            youngest = self.running[-1]
            scheduled.pop(youngest, None)
            self._preempt(youngest)
            if youngest is one:
                return False
        one.blocks += [self.pool.take() for _ in range(missing)]
        return True

    def _preempt(self, one: Sequence) -> None:
        self.running.remove(one)
        self._let_go(one)
        self.waiting.insert(0, one)
        self.tally.preemptions += 1

    def _admit(self, budget: int) -> Iterator[tuple[Sequence, int]]:
        """Waiting requests in order, as long as there are places, tokens and blocks for their first chunk."""
        for one in list(self.waiting):
            if len(self.running) == self.limits.max_batch or budget <= 0:
                return
            one.hashes = one.hashes or chain(one.tokens, self.limits.block_size)
            sharable = one.hashes[: (len(one.tokens) - 1) // self.limits.block_size]  # one token is left to compute
            found = self.pool.shared(sharable)
            if self._in_flight(sharable[len(found) :]):
                continue
            past = len(found) * self.limits.block_size
            count = min(len(one.tokens) - past, budget)
            missing = self._blocks(past + count) - len(found)
            if missing > len(self.pool.free) - sum(block in self.pool.free for block in found):
                return
            self.pool.hold(found)
            one.blocks = found + [self.pool.take() for _ in range(missing)]
            one.computed, one.named = past, len(found)
            if not one.generated:
                one.cached_tokens = past
                self.tally.cached_tokens += past
            self.waiting.remove(one)
            self.running.append(one)
            budget -= count
            yield one, count

    def _in_flight(self, hashes: list[bytes]) -> bool:
        """Whether somebody is computing the next block of a prefix right now."""
        return bool(hashes) and any(hashes[0] in one.hashes[one.named :] for one in self.running)

    def _blocks(self, tokens: int) -> int:
        return -(-tokens // self.limits.block_size)

    # --- what a request has and leaves --------------------------------------------------------------------------------

    def _name_full_blocks(self, one: Sequence) -> None:
        full = one.computed // self.limits.block_size
        if full > len(one.hashes):
            one.hashes = chain(one.tokens, self.limits.block_size, one.hashes)
        for index in range(one.named, full):
            self.pool.name(one.blocks[index], one.hashes[index])
        one.named = full

    def _next(self, one: Sequence, token: int) -> Event:
        event = one.request.answer(one.number, token, one.generated + 1, self.ends, one.cached_tokens)
        one.tokens += [] if event.token is None else [event.token]
        return self._finish(one, event) if event.finish else event

    def _finish(self, one: Sequence, event: Event) -> Event:
        self.running.remove(one)
        self._let_go(one)
        return event

    def _let_go(self, one: Sequence) -> None:
        self.pool.release(one.blocks)
        one.blocks, one.hashes, one.computed, one.named = [], [], 0, 0
