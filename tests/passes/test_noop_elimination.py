from __future__ import annotations

import numpy as np
import pytest

from passes.noop_elimination import NoopElimination
from tests import graphs, laws


def around(node: str, dims: str = "2,3", **weights: np.ndarray) -> graphs.ir.Model:
    text = f"(float[{dims}] x) => (float[{dims}] y) {{ a = Neg(x)  b = {node}  y = Exp(b) }}"
    return graphs.typed(text, **weights)


@pytest.mark.parametrize(
    ("node", "weights"),
    [
        ("Identity(a)", {}),
        ("Cast<to = 1>(a)", {}),
        ("Transpose<perm = [0,1]>(a)", {}),
        ("Reshape(a, k)", {"k": np.array([2, -1])}),
        ("Expand(a, k)", {"k": np.array([1, 3])}),
        ("Tile(a, k)", {"k": np.array([1, 1])}),
        ("Pad(a, k)", {"k": np.zeros(4, np.int64)}),
        ("Slice(a, k, m)", {"k": np.array([0, 0]), "m": np.array([2, 2**62])}),
        ("Add(a, k)", {"k": np.zeros(3, np.float32)}),
        ("Sub(a, k)", {"k": np.float32(0)}),
        ("Mul(k, a)", {"k": np.ones((1, 3), np.float32)}),
        ("Div(a, k)", {"k": np.float32(1)}),
        ("Pow(a, k)", {"k": np.float32(1)}),
        ("Concat<axis = 0>(a)", {}),
        ("Sum(a)", {}),
    ],
)
def test_what_returns_its_input_goes(node: str, weights: dict[str, np.ndarray]) -> None:
    assert laws.left_by(NoopElimination(), around(node, **weights)) == ["Neg", "Exp"]


@pytest.mark.parametrize(
    ("node", "weights"),
    [
        ("Clip(a)", {}),
        ("Mul(a, k)", {"k": np.float32(1.000001)}),
        ("Sub(k, a)", {"k": np.float32(0)}),
        ("Div(k, a)", {"k": np.float32(1)}),
        ("Add(a, k)", {"k": np.float32([0, 0, 1e-45])}),
        ("Slice(a, k, m, k, s)", {"k": np.array([0]), "m": np.array([2]), "s": np.array([2])}),
    ],
)
def test_what_nearly_does_stays(node: str, weights: dict[str, np.ndarray]) -> None:
    text = f"(float[2,3] x) => (float[A,B] y) {{ a = Neg(x)  b = {node}  y = Exp(b) }}"
    assert len(laws.left_by(NoopElimination(), graphs.typed(text, **weights))) == 3


@pytest.mark.parametrize("node", ["Reshape(a, k)", "Expand(a, k)"])
def test_a_free_size_may_be_another(node: str) -> None:
    """[2, 3] is the shape at one call."""
    text = f"(float[N,3] x) => (float[A,B] y) {{ a = Neg(x)  b = {node}  y = Exp(b) }}"
    assert len(laws.left_by(NoopElimination(), graphs.typed(text, k=np.array([2, 3])))) == 3


@pytest.mark.parametrize(("place", "left"), [(1, ["Neg", "Exp"]), (-1, ["Neg", "Exp"]), (2, None)])
def test_an_entry_of_a_sequence_made_here_is_that_value(place: int, left: list[str] | None) -> None:
    text = "(float[3] x) => (float[3] y) { a = Neg(x)  s = SequenceConstruct(x, a)  b = SequenceAt(s, k)  y = Exp(b) }"
    model = graphs.typed(text, k=np.array(place))
    if left is None:
        assert not NoopElimination()(model).modified
    else:
        assert laws.left_by(NoopElimination(), model) == left
