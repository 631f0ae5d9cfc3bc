from __future__ import annotations

import numpy as np
import pytest

from passes.slice_splitting import SliceSplitting
from tests import graphs, laws


def pieces(*bounds: tuple[int, int], opset: int = 17, step: int = 1) -> graphs.ir.Model:
    nodes = " ".join(f"p{i} = Slice(x, s{i}, e{i}, axis, step)  y{i} = Neg(p{i})" for i in range(len(bounds)))
    outputs = ", ".join(f"float[2,D{i}] y{i}" for i in range(len(bounds)))
    numbers = {f"s{i}": np.array([start]) for i, (start, _) in enumerate(bounds)}
    numbers |= {f"e{i}": np.array([end]) for i, (_, end) in enumerate(bounds)}
    model = f"(float[2,6] x) => ({outputs}) {{ {nodes} }}"
    return graphs.build(model, opset, axis=np.array([1]), step=np.array([step]), **numbers)


@pytest.mark.parametrize("opset", [11, 13, 17, 18])
@pytest.mark.parametrize("bounds", [((0, 3), (3, 6)), ((2, 2**62), (0, 2)), ((0, 1), (1, -2), (-2, 6))])
def test_pieces_that_tile_are_one_split(bounds: tuple[tuple[int, int], ...], opset: int) -> None:
    left = laws.left_by(SliceSplitting(), pieces(*bounds, opset=opset))
    assert left == ["Split", *["Neg"] * len(bounds)]


@pytest.mark.parametrize("bounds", [((0, 4), (3, 6)), ((0, 2), (3, 6)), ((0, 3), (3, 5)), ((1, 3), (3, 6))])
def test_gaps_and_overlaps_are_refused(bounds: tuple[tuple[int, int], ...]) -> None:
    assert all("do not tile the 6 entries" in one for one in laws.reasons(SliceSplitting(), pieces(*bounds)))


def test_steps_are_no_pieces() -> None:
    assert laws.reasons(SliceSplitting(), pieces((0, 6), (1, 6), step=2)) == []
