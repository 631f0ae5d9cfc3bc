from __future__ import annotations

import numpy as np
import pytest

from passes.grid_slicing import GridSlicing
from tests import laws
from tests.detour_graphs import GRAPHS


def test_a_grid_of_all_positions_is_cut_out() -> None:
    left = laws.left_by(GridSlicing(), GRAPHS["grid"]())
    assert {"GatherND", "Range", "Max"}.isdisjoint(left)
    assert left[-3:] == ["Slice", "Unsqueeze", "Not"]


def test_a_mask_that_is_longer_than_the_grid_is_cut() -> None:
    before, after = GRAPHS["grid"](), GRAPHS["grid"]()
    GridSlicing()(after)
    rng = np.random.default_rng(0)
    feeds = {"x": np.zeros((2, 3), np.float32), "mask": rng.integers(0, 2, (4, 7)).astype(bool)}
    laws.assert_same(laws.run(before, feeds), laws.run(after, feeds))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("grid_turned", "its indices count along the axes [3, 0], which turns the data"),
        ("grid_along_one_axis", "its indices count along the axes [3, 3], which turns the data"),
        ("grid_of_a_difference", "a limit may be below 0, where a Slice counts from the end"),
        ("grid_repeated", "its indices are repeated along another axis"),
        ("grid_of_rows", "2 indices for 3 axes of 'mask'"),
    ],
)
def test_refusals(name: str, reason: str) -> None:
    assert laws.reasons(GridSlicing(), GRAPHS[name]()) == [reason]


def test_a_count_from_elsewhere_is_no_grid() -> None:
    assert laws.reasons(GridSlicing(), GRAPHS["grid_from_one"]()) == []
