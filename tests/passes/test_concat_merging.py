from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from passes.concat_merging import ConcatMerging
from tests import graphs, laws


def concats(first: str, second: str, outputs: str = "float[A,B] y", opset: int = 17) -> ir.Model:
    text = f"(float[N,3] x, float[N,3] z) => ({outputs}) {{ a = {first}  y = {second} }}"
    return graphs.build(text, opset)


@pytest.mark.parametrize(
    ("first", "second", "order"),
    [
        ("Concat<axis = 1>(x, z)", "Concat<axis = 1>(a, x)", ["x", "z", "x"]),
        ("Concat<axis = -1>(x, z)", "Concat<axis = 1>(z, a)", ["z", "x", "z"]),
        ("Concat<axis = 0>(x, z)", "Concat<axis = -2>(x, a, z)", ["x", "x", "z", "z"]),
    ],
)
def test_one_is_enough(first: str, second: str, order: list[str]) -> None:
    model = concats(first, second)
    assert laws.left_by(ConcatMerging(), model) == ["Concat"]
    assert [value.name for value in model.graph[0].inputs if value is not None] == order


def test_what_others_read_is_refused() -> None:
    model = concats("Concat<axis = 1>(x, z)", "Concat<axis = 1>(a, x)", "float[A,B] y, float[C,D] a")
    assert laws.reasons(ConcatMerging(), model) == ["others read 'a'"]


def test_twice_in_one_is_read_by_two() -> None:
    model = concats("Concat<axis = 1>(x, z)", "Concat<axis = 1>(a, a)")
    assert laws.reasons(ConcatMerging(), model) == ["others read 'a'"]


def test_another_axis_is_another_thing() -> None:
    text = """(float[2,3] x, float[2,3] z, float[2,6] k) => (float[A,B] y) {
        a = Concat<axis = 1>(x, z)  y = Concat<axis = 0>(a, k)
    }"""
    assert laws.reasons(ConcatMerging(), graphs.build(text)) == []


def test_a_piece_of_nothing_goes() -> None:
    text = "(float[N,3] x) => (float[A,3] y) { y = Concat<axis = -2>(none, x, none) }"
    model = graphs.build(text, none=np.zeros((0, 3), np.float32))
    assert laws.left_by(ConcatMerging(), model) == ["Concat"]
    assert [value.name for value in model.graph[0].inputs] == ["x"]


@pytest.mark.parametrize(("x", "shape"), [("N,0", (2, 0)), ("0,3", (0, 3))])
def test_what_makes_the_result_longer_or_is_all_of_it_stays(x: str, shape: tuple[int, ...]) -> None:
    """[2, 0] has no entries and adds two rows of none; a Concat of nothing needs a piece to know its shape by."""
    operands = "x, none" if shape[0] else "none, none"
    text = f"(float[{x}] x) => (float[A,B] y) {{ y = Concat<axis = 0>({operands}) }}"
    model = graphs.build(text, none=np.zeros(shape, np.float32))
    laws.left_by(ConcatMerging(), model)
    assert len(model.graph[0].inputs) == 2
