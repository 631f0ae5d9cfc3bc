from __future__ import annotations

import numpy as np
import pytest

from passes.initial_state_removal import InitialStateRemoval
from tests import graphs, laws

SIZES = """n = Shape<start = 1, end = 2>(x)  s = Concat<axis = 0>(one, n, two)"""


def layer(states: str, kind: str = "LSTM", more: str = "", **weights: np.ndarray) -> graphs.ir.Model:
    text = f"""(float[T,N,3] x, float[1,N,2] given) => (float[A,B,C,D] y{more}) {{
        {SIZES}  h = ConstantOfShape(s)  y = {kind}<hidden_size = 2>(x, w, r, "", "", {states})
    }}"""
    gates = {"GRU": 6, "LSTM": 8, "RNN": 2}[kind]
    numbers = {"one": np.array([1]), "two": np.array([2])}
    w, r = graphs.normal(1, gates, 3), graphs.normal(1, gates, 2)
    return graphs.build(text, w=w, r=r, **numbers, **weights)


@pytest.mark.parametrize(
    ("states", "kind"), [("h, h", "LSTM"), ("h", "GRU"), ("h", "RNN"), ("zeros, h", "LSTM"), ("h", "LSTM")]
)
def test_zeros_are_not_told(states: str, kind: str) -> None:
    model = layer(states, kind, zeros=np.zeros((1, 2, 2), np.float32))
    assert laws.left_by(InitialStateRemoval(), model) == [kind]
    assert len(model.graph[-1].inputs) == 3


def test_zeros_that_were_moved_are_zeros() -> None:
    text = f"""(float[T,N,3] x) => (float[A,B,C,D] y) {{
        {SIZES}  z = ConstantOfShape(s)  b = Concat<axis = 0>(z, z)  h, c = Split<axis = 0>(b, halves)
        y = LSTM<hidden_size = 2>(x, w, r, "", "", h, c)
    }}"""
    numbers = {"one": np.array([1]), "two": np.array([2]), "halves": np.array([1, 1])}
    model = graphs.build(text, w=graphs.normal(1, 8, 3), r=graphs.normal(1, 8, 2), **numbers)
    assert laws.left_by(InitialStateRemoval(), model) == ["LSTM"]


@pytest.mark.parametrize("states", ["given, given", "ones, ones"])
def test_what_may_be_another_state_stays(states: str) -> None:
    assert not InitialStateRemoval()(layer(states, ones=np.ones((1, 2, 2), np.float32))).modified


def test_one_of_two_goes_and_the_other_keeps_its_place() -> None:
    model = layer("h, given")
    assert laws.left_by(InitialStateRemoval(), model) == ["LSTM"]
    assert [value.name if value is not None else "" for value in model.graph[-1].inputs[5:]] == ["", "given"]
