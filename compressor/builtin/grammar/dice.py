"""Every choice of the grammar comes from here, so a seed is a text."""

import random
from collections.abc import Sequence
from functools import cache
from itertools import accumulate
from typing import TypeVar, final

T = TypeVar("T")


@cache
def zipf(count: int) -> list[float]:
    """Running sums of 1 / (rank + 1): rank 1 weighs half, the tail stays alive."""
    return list(accumulate(1 / (rank + 1) for rank in range(1, count + 1)))


@final
class Dice:
    """Every choice of the grammar comes from here, so a seed is a text."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def pick(self, items: Sequence[T]) -> T:
        """One of `items`, the earlier the likelier."""
        return self._random.choices(items, cum_weights=zipf(len(items)))[0]

    def any(self, items: Sequence[T]) -> T:
        """One of `items`, all alike."""
        return self._random.choice(items)

    def some(self, items: Sequence[T], count: int) -> list[T]:
        """`count` different items, the earlier the likelier, in the order they fell."""
        left = list(items)
        return [left.pop(left.index(self.pick(left))) for _ in range(count)]

    def number(self, low: int, high: int) -> int:
        """A whole number, both ends included."""
        return self._random.randint(low, high)

    def chance(self, probability: float) -> bool:
        return self._random.random() < probability
