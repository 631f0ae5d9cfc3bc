from __future__ import annotations

import contextlib
import itertools

import numpy as np
import pytest

from passes.local import Refused
from passes.slice_merging import Cut, SliceMerging, _then
from tests import graphs, laws

Bounds = tuple[list[int], list[int], list[int], list[int]]  # starts, ends, axes, steps
END = 2**63 - 1


def slices(
    first: Bounds, second: Bounds, shape: str = "9,7", gives: str = "A,B", opset: int = 17, also: str = ""
) -> graphs.ir.Model:
    numbers = {
        f"{side}{i}": np.array(one)
        for side, cut in zip("ab", (first, second), strict=True)
        for i, one in enumerate(cut)
    }
    text = f"""(float[{shape}] x) => (float[{gives}] y{also}) {{
        h = Slice(x, a0, a1, a2, a3)  y = Slice(h, b0, b1, b2, b3)
    }}"""
    return graphs.build(text, opset, **numbers)


STARTS, ENDS, STEPS = (0, 2, 5, -3, -20), (0, 1, 3, 6, -1, -4, -20, END), (1, 2, -1, -2)
CUTS = list(itertools.product(STARTS, ENDS, STEPS))


def cut(entries: list[int], start: int, end: int, step: int) -> list[int]:
    """As the standard says it: both numbers are clamped, so that a start before the first entry is the first one."""
    size = len(entries)
    start, end = (at + size if at < 0 else at for at in (start, end))
    lowest, highest = ((0, 0), (size, size)) if step > 0 else ((0, -1), (size - 1, size - 1))
    start, end = (min(max(at, low), high) for at, low, high in zip((start, end), lowest, highest, strict=True))
    return [entries[at] for at in range(start, end, step)]


def cut_twice(size: int, first: Cut, second: Cut) -> list[int]:
    return cut(cut(list(range(size)), *first), *second)


@pytest.mark.parametrize("size", [0, 1, 4, 9])
def test_two_cuts_of_a_known_axis_leave_what_the_standard_says(size: int) -> None:
    for first, second in itertools.product(CUTS, CUTS):
        one = _then(Cut(*first), Cut(*second), size, axis=0)
        assert cut(list(range(size)), *one) == cut_twice(size, Cut(*first), Cut(*second)), (first, second)


def test_two_cuts_of_an_unknown_axis_leave_the_same_of_every_size() -> None:
    merged = 0
    for first, second in itertools.product(CUTS, CUTS):
        with contextlib.suppress(Refused):
            one = _then(Cut(*first), Cut(*second), None, axis=0)
            merged += 1
            for size in (0, 1, 2, 3, 4, 5, 7, 12):
                assert cut(list(range(size)), *one) == cut_twice(size, Cut(*first), Cut(*second)), (first, second, size)
    forward = sum(start >= 0 and step > 0 for start, _, step in CUTS) ** 2
    assert merged > forward / 2


@pytest.mark.parametrize(
    "first", [([-20], [-30], [0], [-1]), ([-3], [1], [0], [-1]), ([2], [END], [0], [2]), ([-1], [-20], [0], [-2])]
)
@pytest.mark.parametrize("second", [([0], [3], [0], [1]), ([-1], [-20], [0], [-1]), ([7], [9], [0], [1])])
def test_the_runtime_agrees(first: Bounds, second: Bounds) -> None:
    assert laws.left_by(SliceMerging(), slices(first, second)) == ["Slice"]


@pytest.mark.parametrize("opset", [10, 13, 18])
@pytest.mark.parametrize("axes", [([0], [1]), ([0], [-1]), ([-2, 1], [-1]), ([1], [0, 1])])
def test_other_axes_are_cut_beside(axes: tuple[list[int], list[int]], opset: int) -> None:
    first, second = (([1] * len(one), [-1] * len(one), one, [1] * len(one)) for one in axes)
    assert laws.left_by(SliceMerging(), slices(first, second, opset=opset)) == ["Slice"]


def test_before_opset_10_the_numbers_are_attributes() -> None:
    text = """(float[9,7] x) => (float[A,B] y) {
        h = Slice<starts = [1], ends = [-1]>(x)  y = Slice<axes = [0, 1], starts = [2, 0], ends = [5, 4]>(h)
    }"""
    model = graphs.build(text, opset=9)
    assert laws.left_by(SliceMerging(), model) == ["Slice"]
    assert model.graph[0].attributes["ends"].as_ints() == (6, 4)


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        (
            ([1], [END], [0], [1]),
            ([-2], [END], [0], [1]),
            "axis 0 has no size before a run, and is cut from its end or",
        ),
        (([0], [-1], [0], [1]), ([0], [3], [0], [1]), "axis 0 has no size before a run, and is cut from both of its"),
        (([0], [END], [0], [2]), ([0], [-1], [0], [1]), "axis 0 has no size before a run, and is cut from both of its"),
    ],
)
def test_what_only_a_run_can_tell_is_refused(first: Bounds, second: Bounds, reason: str) -> None:
    (said,) = laws.reasons(SliceMerging(), slices(first, second, "N,7"))
    assert said.startswith(reason)


def test_what_others_read_is_refused() -> None:
    model = slices(([1], [4], [0], [1]), ([1], [2], [0], [1]), also=", float[C,D] h")
    assert laws.reasons(SliceMerging(), model) == ["others read 'h'"]


def test_numbers_made_in_a_run_are_refused() -> None:
    text = "(float[9] x, int64[1] s) => (float[N] y) { h = Slice(x, s, e)  y = Slice(h, e, e) }"
    (said,) = laws.reasons(SliceMerging(), graphs.build(text, e=np.array([5])))
    assert said == "its numbers, or those before 'h', are made in a run"
