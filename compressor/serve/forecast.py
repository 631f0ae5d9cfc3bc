"""The blocks that the Engine needs, by our forecast: its table is not to be seen from outside.

Counted are the blocks of the requests that run, a shared prefix once, and remembered those that were filled. Whether
there was room is the Engine's word, and preemption the answer.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Sequence

from compressor.serve.blocks import chain
from compressor.serve.turn import Turn


class Forecast:
    """Blocks by their content (`blocks.chain`), so that equal prefixes are one."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.num_blocks, self.block_size = num_blocks, block_size
        self.filled: OrderedDict[bytes, None] = OrderedDict()  # blocks that were computed, the newest last
        self.held: Counter[bytes] = Counter()  # full blocks of those that run, and how many of them hold each

    def used(self, running: Sequence[Turn]) -> int:
        """Blocks of those that run with a next token, a full block that several share counted once."""
        for one in running:
            self.name(one, holds=True)
        return len(self.held) + sum(self._open_blocks(one) for one in running)

    def fits(self, one: Turn, running: Sequence[Turn]) -> bool:
        """Whether its blocks are free beside theirs."""
        own = self._open_blocks(one) + sum(content not in self.held for content in one.hashes)
        return self.used(running) + own <= self.num_blocks

    def known(self, one: Turn) -> int:
        """Tokens that lie in blocks already; the last is always computed."""
        known = next((at for at, content in enumerate(one.hashes) if content not in self.filled), len(one.hashes))
        return min(known * self.block_size, len(one.tokens) - 1)

    def is_awaited(self, one: Turn, running: Sequence[Turn]) -> bool:
        """Whether somebody is computing the next block of its prefix; the last token is always left to compute."""
        sharable = one.hashes[: (len(one.tokens) - 1) // self.block_size]
        missing = next((content for content in sharable if content not in self.filled), None)
        return missing is not None and any(missing in other.hashes for other in running if not other.answered)

    # --- what becomes of a request ------------------------------------------------------------------------------------

    def name(self, one: Turn, *, holds: bool = False) -> None:
        """Know the full blocks of its tokens; one that runs holds them."""
        known = len(one.hashes)
        if len(one.tokens) // self.block_size > known:
            one.hashes = chain(one.tokens, self.block_size, one.hashes)
            if holds:
                self.held.update(one.hashes[known:])

    def hold(self, one: Turn) -> None:
        """It runs from now on."""
        self.held.update(one.hashes)

    def fill(self, one: Turn) -> None:
        """Its first token came: what it began with lies in blocks."""
        for content in one.hashes:
            self.filled[content] = None
            self.filled.move_to_end(content)
        while len(self.filled) > self.num_blocks:
            self.filled.popitem(last=False)

    def let_go(self, one: Turn) -> None:
        """It runs no more."""
        for content in one.hashes:
            self.held[content] -= 1
            if not self.held[content]:
                del self.held[content]

    def _open_blocks(self, one: Turn) -> int:
        """Blocks that its next token needs, beside those that are full."""
        return -(-(len(one.tokens) + 1) // self.block_size) - len(one.hashes)
