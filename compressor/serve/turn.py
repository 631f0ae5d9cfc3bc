"""A request in onnxruntime-genai's Engine, as our side knows it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from compressor.serve.backend import Request


@dataclass(eq=False, slots=True)
class Turn:
    """A request, its tokens so far, and while it runs its handle in the Engine."""

    number: int
    request: Request
    tokens: list[int]
    hashes: list[bytes] = field(default_factory=list)
    handle: Any = None
    turn: int = 0
    answered: bool = False  # a token came since it was admitted: its prompt lies in blocks
    again: int = 0  # tokens that were delivered before a preemption and are drawn again
    cached_tokens: int = 0
    read: int = 0  # of its tokens, those that lie in blocks by our forecast
    suspect: bool = False  # it ran when a call failed: from then on it is the only one with a grammar that runs

    @property
    def generated(self) -> int:
        return len(self.tokens) - len(self.request.prompt)

    @property
    def unread(self) -> int:
        """Tokens that the Engine has to compute before its first answer."""
        return 0 if self.answered else len(self.tokens) - self.read

    @property
    def is_greedy(self) -> bool:
        return self.request.sampling.temperature == 0 and self.request.guidance is None
