"""What batching can gain on a mix of requests, by counting: no machine is any faster than these.

    seconds = a calls + b rows + c prompt tokens      whatever a call, a row and a token of a prompt cost

so the ratio of two ways lies between the smallest and the largest of the three ratios. `calls` counts every call of
the model, `rows` the tokens that come one at a time, those of rows that have ended included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Work:
    """What a way of batching computes."""

    calls: int
    rows: int
    prompt_tokens: int


def static(prompts: Sequence[int], wishes: Sequence[int], batch: int) -> Work:
    """Each batch lasts as long as its longest wish, every prompt as wide as its longest."""
    batches = [(prompts[at : at + batch], wishes[at : at + batch]) for at in range(0, len(wishes), batch)]
    return Work(
        calls=sum(max(asked) for _, asked in batches),
        rows=sum(len(asked) * max(asked) for _, asked in batches),
        prompt_tokens=sum(len(given) * max(given) for given, _ in batches),
    )


def continuous(prompts: Sequence[int], wishes: Sequence[int], batch: int, step_tokens: int) -> Work:
    """A place that is free is taken at the next call, as long as its prompt begins within the call's tokens."""
    waiting, left, calls = list(zip(prompts, wishes, strict=True)), list[int](), 0
    while waiting or left:
        room = step_tokens - len(left)
        while waiting and len(left) < batch and room > 0:
            prompt, wish = waiting.pop(0)
            left.append(wish)
            room -= prompt
        left = [wish - 1 for wish in left if wish > 1]
        calls += 1
    return Work(calls, sum(wishes), sum(prompts))


def bounds(prompts: Sequence[int], wishes: Sequence[int], batch: int, step_tokens: int) -> dict[str, Any]:
    """Both ways counted, and the most that the one can be ahead of the other."""
    waits, joins = asdict(static(prompts, wishes, batch)), asdict(continuous(prompts, wishes, batch, step_tokens))
    ratios = {name: round(waits[name] / joins[name], 2) for name in waits}
    return {"static": waits, "continuous": joins, "static over continuous": ratios, "most": max(ratios.values())}
