from __future__ import annotations

import numpy as np
import pytest

from passes.reshape_merging import ReshapeMerging
from tests import graphs, laws


def changed(first: str, second: str, dims: str = "2,3,4", gives: str = "A,B", **weights: np.ndarray) -> graphs.ir.Model:
    text = f"(float[{dims}] x) => (float[{gives}] y) {{ a = {first}  y = {second} }}"
    return graphs.build(text, **{name: np.array(sizes) for name, sizes in weights.items()})


@pytest.mark.parametrize(
    ("first", "second", "weights"),
    [
        ("Reshape(x, k)", "Reshape(a, m)", {"k": [6, 4], "m": [0, -1]}),
        ("Flatten<axis = 2>(x)", "Reshape(a, m)", {"m": [4, 6]}),
        ("Unsqueeze(x, k)", "Reshape(a, m)", {"k": [1], "m": [0, -1]}),
    ],
)
def test_two_changes_are_one(first: str, second: str, weights: dict[str, np.ndarray]) -> None:
    assert laws.left_by(ReshapeMerging(), changed(first, second, **weights)) == ["Reshape"]


def test_what_is_taken_back_is_none() -> None:
    model = changed("Unsqueeze(x, k)", "Squeeze(a, k)", gives="A,B,C", k=[1])
    assert laws.left_by(ReshapeMerging(), model) == ["Identity"]


def test_the_first_stays_for_other_readers() -> None:
    text = "(float[2,3,4] x) => (float[A,B] y, float[6,4] z) { a = Reshape(x, k)  y = Reshape(a, m)  z = Neg(a) }"
    model = graphs.build(text, k=np.array([6, 4]), m=np.array([3, 8]))
    assert laws.left_by(ReshapeMerging(), model) == ["Reshape", "Reshape", "Neg"]


def test_two_free_sizes_cannot_be_written() -> None:
    model = changed("Unsqueeze(x, k)", "Squeeze(a, m)", "N,M", "A,B,C", k=[0, 1], m=[0])
    (reason,) = laws.reasons(ReshapeMerging(), model)
    assert "left to the run" in reason or "stands for one" in reason


def test_what_returns_to_its_input_is_gone_whoever_else_reads_the_first() -> None:
    text = "(float[2,3,4] x) => (float[A,B,C] y, float[6,4] z) { a = Reshape(x, k)  y = Reshape(a, m)  z = Neg(a) }"
    model = graphs.build(text, k=np.array([6, 4]), m=np.array([2, 3, 4]))
    assert laws.left_by(ReshapeMerging(), model) == ["Reshape", "Identity", "Neg"]
