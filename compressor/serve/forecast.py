"""The blocks that the Engine needs, by our own count: it does not show its table of blocks.

Blocks of running requests are counted, a shared prefix once; blocks that were filled are remembered. Where the count
was too low, the Engine says that it is blocked, and a request is preempted.
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
        """Blocks that the running requests need for their next tokens; a full block that several share counts once."""
        for one in running:
            self.name(one, holds=True)
        return len(self.held) + sum(self._open_blocks(one) for one in running)

    def fits(self, one: Turn, running: Sequence[Turn]) -> bool:
        """Whether there are blocks for a request beside those that the running ones need."""
        own = self._open_blocks(one) + sum(content not in self.held for content in one.hashes)
        return self.used(running) + own <= self.num_blocks

    def known(self, one: Turn) -> int:
        """How many of a request's tokens lie in filled blocks; the last token is always left to compute."""
        known = next((at for at, content in enumerate(one.hashes) if content not in self.filled), len(one.hashes))
        return min(known * self.block_size, len(one.tokens) - 1)

    def is_awaited(self, one: Turn, running: Sequence[Turn]) -> bool:
        """Whether a running request is computing the next block of this one's prefix."""
        sharable = one.hashes[: (len(one.tokens) - 1) // self.block_size]
        missing = next((content for content in sharable if content not in self.filled), None)
        return missing is not None and any(missing in other.hashes for other in running if not other.answered)

    # --- what becomes of a request ------------------------------------------------------------------------------------

    def name(self, one: Turn, *, holds: bool = False) -> None:
        """Name the full blocks of a request's tokens, which a running request holds."""
        known = len(one.hashes)
        if len(one.tokens) // self.block_size > known:
            one.hashes = chain(one.tokens, self.block_size, one.hashes)
            if holds:
                self.held.update(one.hashes[known:])

    def hold(self, one: Turn) -> None:
        """The request runs from now on."""
        self.held.update(one.hashes)

    def fill(self, one: Turn) -> None:
        """The request's first token came, so the tokens that it began with lie in blocks."""
        for content in one.hashes:
            self.filled[content] = None
            self.filled.move_to_end(content)
        while len(self.filled) > self.num_blocks:
            self.filled.popitem(last=False)

    def let_go(self, one: Turn) -> None:
        """The request no longer runs."""
        for content in one.hashes:
            self.held[content] -= 1
            if not self.held[content]:
                del self.held[content]

    def _open_blocks(self, one: Turn) -> int:
        """Blocks that a request's next token needs, beside its full ones."""
        return -(-(len(one.tokens) + 1) // self.block_size) - len(one.hashes)
