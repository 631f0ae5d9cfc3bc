from __future__ import annotations

import numpy as np
import pytest

from passes.common_subexpression_elimination import CommonSubexpressionElimination
from tests import graphs, laws

TWICE = "(float[2,3] x) => (float[2,3] y) {{ a = {0}  b = {1}  y = Add(a, b) }}"


@pytest.mark.parametrize(
    ("first", "second", "left"),
    [
        ("Exp(x)", "Exp(x)", ["Exp", "Add"]),
        ("Softmax<axis = 1>(x)", "Softmax<axis = 1>(x)", ["Softmax", "Add"]),
        ("Softmax<axis = 1>(x)", "Softmax<axis = 0>(x)", ["Softmax", "Softmax", "Add"]),
        ("LeakyRelu<alpha = 0.0>(x)", "LeakyRelu<alpha = -0.0>(x)", ["LeakyRelu", "LeakyRelu", "Add"]),
        ("Softmax(x)", "Softmax<axis = -1>(x)", ["Softmax", "Add"]),
        ("Sub(x, k)", "Sub(k, x)", ["Sub", "Sub", "Add"]),
    ],
)
def test_equal_is_equal(first: str, second: str, left: list[str]) -> None:
    model = graphs.build(TWICE.format(first, second), k=np.float32(2))
    assert laws.left_by(CommonSubexpressionElimination(), model) == left


@pytest.mark.parametrize("draw", ["RandomUniformLike(x)", "RandomNormalLike(x)", "Bernoulli(x)"])
def test_two_draws_are_two(draw: str) -> None:
    assert laws.reasons(CommonSubexpressionElimination(), graphs.build(TWICE.format(draw, draw))) == []


def test_a_dequantization_for_each_reader_stays() -> None:
    text = "(uint8[3] q) => (float[3] y) { a = DequantizeLinear(q, s)  b = DequantizeLinear(q, s)  y = Add(a, b) }"
    assert laws.reasons(CommonSubexpressionElimination(), graphs.build(text, s=np.float32(0.5))) == []


def test_a_branch_reads_what_was_computed_before_it() -> None:
    text = """(float[2] x, bool c) => (float[2] y, float[2] z) {
        z = Exp(x)
        y = If (c) <then_branch = t () => (float[2] a) { e = Exp(x)  a = Neg(e) },
                    else_branch = e () => (float[2] b) { f = Exp(x)  b = Abs(f) }>
    }"""
    left = laws.left_by(CommonSubexpressionElimination(), graphs.build(text))
    assert sorted(left) == ["Abs", "Exp", "If", "Neg"]


def test_two_branches_know_nothing_of_each_other() -> None:
    text = """(float[2] x, bool c) => (float[2] y) {
        y = If (c) <then_branch = t () => (float[2] a) { e = Exp(x)  a = Neg(e) },
                    else_branch = e () => (float[2] b) { f = Exp(x)  b = Abs(f) }>
    }"""
    assert laws.reasons(CommonSubexpressionElimination(), graphs.build(text)) == []
