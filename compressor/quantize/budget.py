"""Bits and groups for each weight, so that the model as a whole keeps within a budget.

    minimise  sum of cost(weight, choice)     subject to     sum of size(weight, choice)  <=  budget * weights

cost    what rounding this weight alone to this choice loses of its output on the calibration data,
        trace(E^T H E) / trace(W^T H W):  the sensitivity, measured once for each weight and choice
size    bits as the package stores them: cells, scales, zero points

Each weight's choices are thinned to the lower convex hull of (size, cost), where a step to the next larger choice never
saves more for each bit than the step before it. All weights begin at their smallest choice; the steps of all of them
are taken in order of cost saved for each bit spent. That is the best allocation for every size it passes (Shoham and
Gersho 1988, "Efficient bit allocation for an arbitrary set of quantizers"); in between, steps that still fit are taken.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from compressor.quantize.qtensor import Choice

Allocation = Mapping[str, Choice]


@dataclass(frozen=True)
class Option:
    """A choice for one weight: bits of all its codes and scales, and what it loses."""

    choice: Choice
    size: int
    cost: float


@dataclass(frozen=True)
class Step:
    """A weight moves to its next larger option."""

    name: str
    option: Option
    spent: int
    saved: float


class Tradeoff:
    """Every allocation between the smallest and the best, in the order in which bits pay."""

    def __init__(self, options: Mapping[str, Sequence[Option]], weights: int) -> None:
        self.weights = weights
        self._hulls = {name: hull(one) for name, one in options.items()}
        steps = [step for name, one in self._hulls.items() for step in _steps(name, one)]
        self.steps = sorted(steps, key=lambda step: (-step.saved / step.spent, step.name))

    def __len__(self) -> int:
        """The number of allocations: one more than there are steps."""
        return len(self.steps) + 1

    def at(self, taken: int) -> dict[str, Option]:
        """The allocation after so many steps."""
        chosen = {name: one[0] for name, one in self._hulls.items()}
        return chosen | {step.name: step.option for step in self.steps[:taken]}

    def within(self, bits: float) -> dict[str, Option]:
        """The best allocation of at most `bits` for each weight; the smallest where even that is more."""
        left = bits * self.weights - self.size(self.at(0))
        chosen = self.at(0)
        for step in self.steps:
            # A step skipped for its size keeps those behind it from their turn: they would begin where it ends.
            if step.spent <= left and chosen[step.name].size + step.spent == step.option.size:
                chosen[step.name] = step.option
                left -= step.spent
        return chosen

    def smallest(self, good: Callable[[dict[str, Option]], bool]) -> dict[str, Option]:
        """The first allocation that is good, by bisection; the best of all where none is known to be."""
        low, high = 0, len(self) - 1
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if good(self.at(middle)) else (middle + 1, high)
        return self.at(low)

    def size(self, allocation: Mapping[str, Option]) -> int:
        return sum(option.size for option in allocation.values())

    def bits_per_weight(self, allocation: Mapping[str, Option]) -> float:
        return self.size(allocation) / self.weights

    def table(self, rows: int = 9) -> list[dict[str, Any]]:
        """The curve at evenly spread allocations: bits for each weight, what is lost, how many weights have which."""
        marks = sorted({round(at * (len(self) - 1) / (rows - 1)) for at in range(rows)})
        return [self._row(self.at(mark)) for mark in marks]

    def _row(self, allocation: Mapping[str, Option]) -> dict[str, Any]:
        counts: dict[str, int] = {}
        for option in sorted(allocation.values(), key=lambda one: one.choice):
            name = f"{option.choice.bits} bits, {_group(option.choice.group_size)}"
            counts[name] = counts.get(name, 0) + 1
        return {
            "bits per weight": round(self.bits_per_weight(allocation), 4),
            "lost": sum(option.cost for option in allocation.values()),
            "weights": "; ".join(f"{count} x {name}" for name, count in counts.items()),
        }


def hull(options: Sequence[Option]) -> list[Option]:
    """The options on the lower convex hull, by size: none that is larger and no better, none above a line of two."""
    kept: list[Option] = []
    for option in sorted(options, key=lambda one: (one.size, one.cost)):
        if kept and option.cost >= kept[-1].cost:
            continue
        while len(kept) > 1 and _slope(kept[-2], kept[-1]) <= _slope(kept[-1], option):
            kept.pop()
        kept.append(option)
    return kept


def _steps(name: str, options: Sequence[Option]) -> Iterator[Step]:
    for before, after in itertools.pairwise(options):
        yield Step(name, after, after.size - before.size, before.cost - after.cost)


def _slope(one: Option, other: Option) -> float:
    """Cost saved for each bit."""
    return (one.cost - other.cost) / (other.size - one.size)


def _group(group_size: int) -> str:
    return f"groups of {group_size}" if group_size > 0 else "per channel"
