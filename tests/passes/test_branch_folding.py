from __future__ import annotations

import numpy as np
import pytest

from passes.branch_folding import BranchFolding
from tests import graphs, laws

IF = """(float[2] x) => (float[2] y) {
    y = If (go) <then_branch = t () => (float[2] a) { a = Neg(x) }, else_branch = e () => (float[2] b) { b = Exp(x) }>
}"""
NEGATED = """(float[2] x) => (OUTPUTS) {
    h = Add(x, shift)  s = ReduceSum<keepdims = 0>(h)  g = Greater(s, zero)  CONDITION
    y = If (n) <then_branch = t () => (float[2] a) { a = Neg(x) }, else_branch = e () => (float[2] b) { b = Exp(x) }>
}"""
LOOP = """(float[2] x) => (float[2] y, float[T,2] s) {
    y, s = Loop (trips, go, x) <body = l (int64 i, bool on, float[2] c) => (bool go_on, float[2] r, float[2] t) {
        go_on = Identity(on)  r = Exp(c)  t = Neg(c)
    }>
}"""


@pytest.mark.parametrize(("go", "left"), [(True, "Neg"), (False, "Exp")])
def test_the_branch_that_is_taken_is_all(go: bool, left: str) -> None:
    assert laws.left_by(BranchFolding(), graphs.build(IF, go=np.array(go)))[0] == left


@pytest.mark.parametrize("shift", [-9, 9])
@pytest.mark.parametrize("outputs", ["float[2] y", "float[2] y, bool n"])
@pytest.mark.parametrize("condition", ["n = Not(g)", "c = Not(g)  n = Not(c)"])
def test_a_negated_condition_is_asked_itself(condition: str, outputs: str, shift: int) -> None:
    """`shift` takes the sum to either side of zero; what is negated stays where it is an output too."""
    text = NEGATED.replace("CONDITION", condition).replace("OUTPUTS", outputs)
    left = laws.left_by(BranchFolding(), graphs.build(text, zero=np.float32(0), shift=np.float32(shift)))
    assert left.count("Not") == (condition.count("Not") if "n" in outputs.split() else 0)


def test_one_trip_is_the_body_with_its_results_stacked() -> None:
    left = laws.left_by(BranchFolding(), graphs.build(LOOP, trips=np.array(1), go=np.array(True)))
    assert "Loop" not in left
    assert {"Exp", "Neg", "Unsqueeze"} <= set(left)


def test_more_trips_stay() -> None:
    assert "Loop" in laws.left_by(BranchFolding(), graphs.build(LOOP, trips=np.array(2), go=np.array(True)))


@pytest.mark.parametrize(("trips", "go"), [(0, True), (1, False)])
def test_no_trip_stacks_results_of_an_unknown_shape(trips: int, go: bool) -> None:
    (reason,) = laws.reasons(BranchFolding(), graphs.build(LOOP, trips=np.array(trips), go=np.array(go)))
    assert "a shape that nobody knows" in reason


def test_a_condition_that_a_caller_may_set_stays() -> None:
    text = IF.replace("(float[2] x)", "(float[2] x, bool go)", 1)
    assert laws.reasons(BranchFolding(), graphs.build(text, go=np.array(True))) == []
