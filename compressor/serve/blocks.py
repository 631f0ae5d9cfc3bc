"""Blocks of the pool: who holds them, and which hold a prefix that another request may share.

    free + used = total, at every moment; a block is used while at least one request holds it

A full block is known by a chained hash of its tokens and of all before it, so equal hashes mean equal prefixes (vLLM
does the same). A block that nobody holds keeps its content until the pool needs it; the longest unused goes first.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np


def chain(tokens: Sequence[int], block_size: int, known: Sequence[bytes] = ()) -> list[bytes]:
    """The hash of each full block of a sequence, each over the one before and its own tokens; `known` are its first."""
    found, parent = list(known), known[-1] if known else b""
    for start in range(len(known) * block_size, len(tokens) - block_size + 1, block_size):
        block = np.asarray(tokens[start : start + block_size], np.int64).tobytes()
        parent = hashlib.blake2b(parent + block, digest_size=16).digest()
        found.append(parent)
    return found


class BlockPool:
    """Numbers of blocks; what lies in them is the session's."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.holders = [0] * total
        self.free: OrderedDict[int, None] = OrderedDict.fromkeys(range(total))  # the next to be taken comes first
        self.block_of: dict[bytes, int] = {}
        self.hash_of: dict[int, bytes] = {}

    @property
    def used(self) -> int:
        """Blocks that somebody holds, counted by their holders."""
        return sum(count > 0 for count in self.holders)

    def shared(self, hashes: Sequence[bytes]) -> list[int]:
        """The blocks that hold the longest known beginning of a chain."""
        found = []
        for one in hashes:
            if one not in self.block_of:
                break
            found.append(self.block_of[one])
        return found

    def hold(self, blocks: Sequence[int]) -> None:
        """Share blocks whose content is there."""
        for block in blocks:
            self.holders[block] += 1
            self.free.pop(block, None)

    def take(self) -> int:
        """An empty block; whatever prefix lay in it is forgotten. Raises: KeyError when none is free."""
        block, _ = self.free.popitem(last=False)
        known = self.hash_of.pop(block, None)
        if known is not None:
            del self.block_of[known]
        self.holders[block] = 1
        return block

    def name(self, block: int, content: bytes) -> None:
        """Say what a full block holds; the first block with a content keeps the name."""
        if content not in self.block_of and block not in self.hash_of:
            self.block_of[content], self.hash_of[block] = block, content

    def release(self, blocks: Sequence[int]) -> None:
        """Let go. The end of a sequence becomes free first: its beginning is worth more to others."""
        for block in reversed(blocks):
            self.holders[block] -= 1
            if not self.holders[block]:
                self.free[block] = None
