from __future__ import annotations

import pytest

from passes.sequence_splitting import SequenceSplitting
from tests import laws
from tests.detour_graphs import GRAPHS


@pytest.mark.parametrize("name", ["pieces", "pieces_opset_11", "pieces_uneven", "pieces_of_one", "pieces_read_twice"])
def test_pieces_of_a_sequence_are_those_of_a_split(name: str) -> None:
    left = laws.left_by(SequenceSplitting(), GRAPHS[name]())
    assert left == (["Split", "Identity"] if name == "pieces_read_twice" else ["Split"])


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("pieces_without_axis", "its pieces lose the axis"),
        ("pieces_of_unknown_number", "how many pieces there are, is not known before it runs"),
        ("pieces_anywhere", "which piece is taken out is not known before it runs"),
        ("pieces_counted", "SequenceLength reads the whole sequence"),
    ],
)
def test_refusals(name: str, reason: str) -> None:
    (said,) = laws.reasons(SequenceSplitting(), GRAPHS[name]())
    assert said.endswith(reason)
