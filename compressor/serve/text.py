"""Tokens to text while they come, and the strings that end it.

A character may take several tokens, and a token's text may depend on the one before (SentencePiece writes the space in
front): so a few tokens back are decoded again, and what ends in half a character waits for the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

HALF = "\N{REPLACEMENT CHARACTER}"


class Text:
    """The text of one output. `stops`: it ends before the first of these, and none of them is delivered."""

    def __init__(self, tokenizer: Any, stops: Sequence[str] = ()) -> None:
        self.tokenizer, self.stops = tokenizer, tuple(stops)
        self.tokens: list[int] = []
        self.read, self.context = 0, 0  # tokens whose text was taken; tokens from which on they are decoded again
        self.held = ""  # could be the beginning of a stop
        self.stopped = False

    def push(self, token: int) -> str:
        """Text that is certain now."""
        self.tokens.append(token)
        before, whole = self._decode(self.context, self.read), self._decode(self.context, len(self.tokens))
        if whole.endswith(HALF):
            return ""
        self.context, self.read = self.read, len(self.tokens)
        return self._until_stop(self.held + whole[len(before) :])

    def finish(self) -> str:
        """What was held back, when no more tokens come."""
        before, whole = self._decode(self.context, self.read), self._decode(self.context, len(self.tokens))
        rest, self.held = self.held + whole[len(before) :], ""
        return "" if self.stopped else rest

    def _decode(self, start: int, end: int) -> str:
        return str(self.tokenizer.decode(self.tokens[start:end]))

    def _until_stop(self, text: str) -> str:
        at = min((found for stop in self.stops if (found := text.find(stop)) >= 0), default=-1)
        if at >= 0:
            self.stopped, self.held = True, ""
            return text[:at]
        keep = max((_overlap(text, stop) for stop in self.stops), default=0)
        self.held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """Characters at the end of a text with which a stop could begin."""
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)
