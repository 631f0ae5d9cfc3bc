from __future__ import annotations

from passes.gather_simplification import GatherSimplification
from tests import laws
from tests.detour_graphs import GRAPHS


def test_one_index_picks_a_row() -> None:
    assert laws.left_by(GatherSimplification(), GRAPHS["gather_rows"]()) == ["Gather", "Neg"]


def test_pairs_pick_entries() -> None:
    assert not GatherSimplification()(GRAPHS["gather_pairs"]()).modified
