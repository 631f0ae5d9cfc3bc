"""What serves tokens: the small protocol that the reference and onnxruntime-genai's Engine both speak.

    number = backend.submit(request)          at any time between steps
    while backend.busy: for event in backend.step(): ...

A backend belongs to the thread that made it. It never waits: a step that can do nothing returns no events.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from compressor.errors import RequestError

Finish = Literal["stop", "length", "cancelled", "refused", "failed"]  # refused: no backend can begin it


@dataclass(frozen=True)
class Sampling:
    """How a token is chosen; temperature 0 takes the most likely."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises: ValueError for what the backends would each understand in a way of their own."""
        if not (0 <= self.temperature < math.inf and 0 < self.top_p <= 1 and self.seed >= 0):
            raise ValueError("temperature is 0 or more, top_p above 0 and at most 1, a seed 0 or more")


@dataclass(frozen=True)
class Guidance:
    """A language that the output has to be in: `regex`, or `json_schema` with the schema as text."""

    kind: Literal["regex", "json_schema"]
    text: str


GREEDY = Sampling()


@dataclass(frozen=True)
class Request:
    """Tokens to continue. Ends at an end-of-text token of the model, which is not delivered, or after `new_tokens`."""

    prompt: tuple[int, ...]
    new_tokens: int
    sampling: Sampling = GREEDY
    guidance: Guidance | None = None

    def answer(self, number: int, token: int, nth: int, ends: Collection[int], cached_tokens: int = 0) -> Event:
        """What the nth new token means for it; one of `ends` is not delivered."""
        if token in ends:
            return Event(number, None, "stop", cached_tokens)
        return Event(number, token, "length" if nth == self.new_tokens else None, cached_tokens)


class Event(NamedTuple):
    """What a step did for one request: a token, an end, or both."""

    number: int
    token: int | None = None
    finish: Finish | None = None
    cached_tokens: int = 0  # of the prompt, taken from blocks that another request filled
    error: str = ""


@dataclass(frozen=True)
class Limits:
    """Sizes of a backend, chosen when it is made."""

    num_blocks: int
    block_size: int
    max_batch: int  # requests that run at once
    max_step_tokens: int  # tokens of one call: longer prompts are computed in chunks
    context: int  # tokens that the model was made for
    threads: int = 0  # that compute; 0: one for each core

    @property
    def max_tokens(self) -> int:
        """Longest request, prompt and output together."""
        return min(self.context, self.num_blocks * self.block_size)

    def check(self, request: Request, vocab: int) -> None:
        """Raises: RequestError for a request that could never finish."""
        wanted = len(request.prompt) + request.new_tokens
        if not request.prompt or request.new_tokens < 1:
            raise RequestError("a request has at least one prompt token and asks for at least one more")
        if wanted > self.max_tokens:
            raise RequestError(
                f"{len(request.prompt)} prompt tokens and {request.new_tokens} new ones are {wanted}; "
                f"this server holds {self.max_tokens}. Shorten the prompt or ask for fewer"
            )
        if not all(0 <= token < vocab for token in request.prompt):
            raise RequestError(f"a prompt token is outside the vocabulary of {vocab}")


@dataclass
class Tally:
    """What a backend counts from its first request on."""

    requests: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0  # of those, taken from blocks that were there
    preemptions: int = 0
    steps: int = 0
    rows: int = 0  # requests that took part in a step, summed over the steps


@dataclass(frozen=True)
class Usage:
    """A backend between two steps."""

    total_blocks: int
    free_blocks: int
    used_blocks: int
    running: int
    waiting: int
    tally: Tally


class Backend(Protocol):
    """Continuous batching over a paged cache."""

    limits: Limits
    vocab: int
    guides: bool  # whether it can hold an output to a `Guidance`

    def submit(self, request: Request) -> int:
        """Queue a request. Raises: RequestError when it could never finish."""
        ...

    def cancel(self, number: int) -> None:
        """End a request and free what it holds; its last event says `cancelled`. Unknown numbers are no error."""
        ...

    def step(self) -> list[Event]:
        """One call of the model, for all requests that fit."""
        ...

    @property
    def busy(self) -> bool:
        """Whether a step has something to do."""
        ...

    def usage(self) -> Usage: ...
