"""The allocation is the best there is at every size that the curve passes, and never exceeds its budget."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest

from compressor.quantize.budget import Option, Tradeoff, hull
from compressor.quantize.qtensor import Choice

BITS = (2, 4, 8)


def options(seed: int, weights: int = 6) -> dict[str, list[Option]]:
    """Weights of different sizes; finer costs less, by how much is random, sometimes nothing."""
    rng = np.random.default_rng(seed)
    found = {}
    for at in range(weights):
        size, costs = int(rng.integers(10, 100)), np.sort(rng.exponential(size=3))[::-1]
        found[f"w{at}"] = [Option(Choice(b, 32), b * size, float(c)) for b, c in zip(BITS, costs, strict=True)]
    return found


def every_allocation(given: dict[str, list[Option]]) -> Sequence[tuple[int, float]]:
    return [(sum(o.size for o in one), sum(o.cost for o in one)) for one in itertools.product(*given.values())]


@pytest.mark.parametrize("seed", range(5))
def test_each_allocation_of_the_curve_is_the_best_of_its_size(seed: int) -> None:
    given = options(seed)
    curve, all_of_them = Tradeoff(given, 1), every_allocation(given)
    for taken in range(len(curve)):
        chosen = curve.at(taken)
        size, cost = curve.size(chosen), sum(option.cost for option in chosen.values())
        best = min(other for length, other in all_of_them if length <= size)
        assert cost == pytest.approx(best)


@pytest.mark.parametrize("seed", range(5))
def test_a_budget_is_kept_and_nearly_used(seed: int) -> None:
    given = options(seed)
    weights = sum(one[0].size // 2 for one in given.values())
    curve = Tradeoff(given, weights)
    largest = max(step.spent for step in curve.steps)
    for bits in np.linspace(2, 8, 13):
        chosen = curve.within(bits)
        assert curve.bits_per_weight(chosen) <= bits + 1e-9
        best = {name: one[-1] for name, one in ((name, hull(one)) for name, one in given.items())}
        assert chosen == best or curve.size(chosen) > bits * weights - largest


def test_what_costs_more_and_saves_nothing_is_never_chosen() -> None:
    given = [Option(Choice(2, 32), 10, 1.0), Option(Choice(4, 32), 20, 1.0), Option(Choice(8, 32), 40, 0.1)]
    assert [one.choice.bits for one in hull(given)] == [2, 8]
    above = [Option(Choice(2, 32), 10, 1.0), Option(Choice(4, 32), 20, 0.9), Option(Choice(8, 32), 40, 0.1)]
    assert [one.choice.bits for one in hull(above)] == [2, 8]


def test_the_smallest_that_is_good_enough() -> None:
    curve = Tradeoff(options(0), 1)
    for wanted in range(len(curve)):
        limit = sum(option.cost for option in curve.at(wanted).values())
        found = curve.smallest(lambda one, limit=limit: sum(o.cost for o in one.values()) <= limit)
        assert found == curve.at(wanted)


def test_the_table_runs_from_the_smallest_to_the_best() -> None:
    curve = Tradeoff(options(1), 100)
    table = curve.table()
    assert table[0]["bits per weight"] == round(curve.bits_per_weight(curve.at(0)), 4)
    assert [row["bits per weight"] for row in table] == sorted(row["bits per weight"] for row in table)
    assert [row["lost"] for row in table] == sorted((row["lost"] for row in table), reverse=True)
    assert table[0]["weights"] == "6 x 2 bits, groups of 32"
