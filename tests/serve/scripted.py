"""A backend that says what it is told to, for all that is around one."""

from __future__ import annotations

from compressor.serve.backend import Event, Limits, Request, Tally, Usage


class Scripted:
    """A backend that says the tokens of a text whatever it is asked, one a step; the prompts are kept."""

    guides, vocab, limits = False, 512, Limits(64, 16, 4, 64, 512)

    def __init__(self, tokens: list[int]) -> None:
        self.tokens, self.asked, self.under_way = tokens, list[Request](), dict[int, int]()

    def submit(self, request: Request) -> int:
        self.asked.append(request)
        self.under_way[len(self.asked)] = 0
        return len(self.asked)

    def cancel(self, number: int) -> None:
        self.under_way.pop(number, None)

    def step(self) -> list[Event]:
        told = []
        for number, said in list(self.under_way.items()):
            is_last = said + 1 == len(self.tokens)
            told.append(Event(number, self.tokens[said], "length" if is_last else None))
            self.under_way[number] += 1
            if is_last:
                del self.under_way[number]
        return told

    @property
    def busy(self) -> bool:
        return bool(self.under_way)

    def usage(self) -> Usage:
        return Usage(64, 64, 0, len(self.under_way), 0, Tally())
