from __future__ import annotations

import numpy as np
import pytest

from passes.factor_merging import FactorMerging
from tests import graphs, laws


def steps(nodes: str, kind: str = "float", outputs: str = "", **weights: np.ndarray) -> graphs.ir.Model:
    numbers = {"three": 3, "seven": 7, "one": 1, "tiny": 1e-30, "huge": 1e30}
    given = {name: np.array(number, "float32") for name, number in numbers.items()} | weights
    if kind != "float":
        given = {name: np.array(number, kind) for name, number in list(numbers.items())[:3]}
    return graphs.typed(f"({kind}[2,3] x, {kind}[2,1] s) => ({kind}[2,3] y{outputs}) {{ {nodes} }}", **given)


@pytest.mark.parametrize(
    ("nodes", "left"),
    [
        ("a = Mul(x, three)  y = Mul(seven, a)", ["Mul"]),
        ("a = Div(x, three)  y = Mul(a, seven)", ["Mul"]),
        ("a = Mul(x, three)  y = Div(a, seven)", ["Mul"]),
        ("a = Mul(row, x)  y = Mul(a, three)", ["Mul"]),
        ("a = Div(one, s)  y = Mul(x, a)", ["Div"]),
        ("a = Reciprocal(s)  y = Mul(a, x)", ["Div"]),
    ],
)
def test_one_sweep_is_enough(nodes: str, left: list[str]) -> None:
    assert laws.left_by(FactorMerging(), steps(nodes, row=graphs.normal(3))) == left


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        ("a = Mul(x, huge)  y = Mul(a, huge)", "too large for float32"),
        ("a = Mul(x, tiny)  y = Mul(a, tiny)", "too small for FLOAT"),
        ("a = Mul(x, row)  y = Mul(a, column)", "is larger than either"),
    ],
)
def test_refused_with_a_reason(nodes: str, reason: str) -> None:
    model = steps(nodes, row=graphs.normal(3), column=graphs.normal(2, 1))
    found = laws.reasons(FactorMerging(), model)
    assert any(reason in one for one in found)


def test_what_others_read_stays() -> None:
    model = steps("a = Mul(x, three)  y = Mul(a, seven)  z = Neg(a)", outputs=", float[2,3] z")
    assert laws.reasons(FactorMerging(), model) == ["others read 'a'"]


@pytest.mark.parametrize(
    ("nodes", "kind"),
    [
        ("a = Add(x, huge)  y = Sub(a, huge)", "float"),  # that is how some round
        ("a = Div(three, x)  y = Mul(a, seven)", "float"),
        ("a = Div(x, three)  y = Mul(a, seven)", "int64"),
        ("a = Div(one, x)  y = Mul(a, x)", "int64"),
        ("a = Div(three, s)  y = Mul(x, a)", "float"),
        ("a = Div(ones, s)  y = Mul(a, a)", "float"),
    ],
)
def test_no_candidate(nodes: str, kind: str) -> None:
    assert laws.reasons(FactorMerging(), steps(nodes, kind, ones=np.ones((2, 3), np.float32))) == []
