from __future__ import annotations

import pytest

from passes.truth_elimination import TruthElimination
from tests import laws
from tests.detour_graphs import GRAPHS


@pytest.mark.parametrize("name", ["restricted_by_nothing", "restricted_by_nothing_second"])
def test_what_is_always_true_is_not_asked(name: str) -> None:
    left = laws.left_by(TruthElimination(), GRAPHS[name]())
    assert {"And", "GreaterOrEqual", "Range"}.isdisjoint(left)


def test_what_may_be_false_is() -> None:
    assert laws.reasons(TruthElimination(), GRAPHS["restricted_by_another"]()) == []


def test_what_gives_the_result_its_size_stays() -> None:
    (reason,) = laws.reasons(TruthElimination(), GRAPHS["restricted_and_wider"]())
    assert reason == "'seen' alone may widen to another shape"
