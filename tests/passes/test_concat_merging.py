from __future__ import annotations

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
