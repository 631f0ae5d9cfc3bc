from __future__ import annotations

import numpy as np
import pytest

from passes.activation_merging import ActivationMerging
from tests import graphs, laws

BEYOND = np.array([[np.inf, -np.inf, 0.5, -3, 9]] * 4, np.float32)

NUMBERS = {"zero": 0.0, "one": 1.0, "six": 6.0, "minus": -1.0}


def limited(*steps: str, kind: str = "float") -> graphs.ir.Model:
    names = ["x", *(f"v{place}" for place in range(len(steps) - 1)), "y"]
    nodes = " ".join(f"{names[place + 1]} = {step.replace('@', names[place])}" for place, step in enumerate(steps))
    weights = {name: np.array(number, "float32" if kind == "float" else kind) for name, number in NUMBERS.items()}
    return graphs.typed(f"({kind}[4,5] x) => ({kind}[4,5] y) {{ {nodes} }}", **weights)


@pytest.mark.parametrize(
    ("steps", "low", "high"),
    [
        (("Relu(@)", "Min(@, six)"), 0.0, 6.0),
        (("Max(@, minus)", "Clip(@, zero, one)"), 0.0, 1.0),
        (("Clip(@, minus, six)", "Relu(@)", "Min(@, one)"), 0.0, 1.0),
    ],
)
def test_limits_in_a_row_are_one(steps: tuple[str, ...], low: float, high: float) -> None:
    model = limited(*steps)
    assert laws.left_by(ActivationMerging(), model) == ["Clip"]
    bounds = [value.const_value.numpy() for value in model.graph[0].inputs[1:]]
    assert bounds == [np.float32(low), np.float32(high)]


@pytest.mark.parametrize(
    ("steps", "kind", "reason"),
    [
        (("Clip(@, minus, zero)", "Clip(@, one, six)"), "float", "leave no interval"),
        (("Max(@, zero)", "Min(@, six)"), "int64", "no Clip of INT64 on every provider"),
    ],
)
def test_refused_with_a_reason(steps: tuple[str, ...], kind: str, reason: str) -> None:
    (found,) = laws.reasons(ActivationMerging(), limited(*steps, kind=kind))
    assert reason in found


def test_a_limit_that_others_read_stays() -> None:
    text = "(float[3] x) => (float[3] y, float[3] z) { a = Relu(x)  y = Min(a, six)  z = Neg(a) }"
    assert laws.left_by(ActivationMerging(), graphs.build(text, six=np.float32(6))) == ["Relu", "Min", "Neg"]


@pytest.mark.parametrize(
    ("steps", "left"),
    [
        (("Max(@, minus)", "Max(@, one)"), "Max"),
        (("Min(@, six)", "Min(@, one)"), "Min"),
        (("Max(@, minus)", "Relu(@)"), "Relu"),
        (("Clip(@, minus)", "Relu(@)"), "Clip"),
        (('Clip(@, "", six)', "Min(@, one)"), "Clip"),
    ],
)
def test_infinities_go_where_they_went(steps: tuple[str, ...], left: str) -> None:
    """A Clip without a bound cuts them to the largest finite number; Relu, Max and Min do not."""
    model = limited(*steps)
    before = laws.run(model, {"x": BEYOND})
    assert laws.left_by(ActivationMerging(), model) == [left]
    np.testing.assert_array_equal(laws.run(model, {"x": BEYOND})["y"], before["y"])


def test_before_opset_8_a_maximum_widens_nothing() -> None:
    text = "(float[1] x) => (float[1] y) { a = Max(x, one)  y = Max(a, six) }"
    model = graphs.typed(text, 7, one=np.ones(1, np.float32), six=np.full(1, 6, np.float32))
    (found,) = laws.reasons(ActivationMerging(), model)
    assert "before opset 8" in found


@pytest.mark.parametrize(
    ("steps", "left"),
    [
        (("Clip(@, zero)", 'Clip(@, "", six)'), "Clip"),
        (("Max(@, zero)", "Max(@, one)"), "Max"),
        (("Min(@, six)", "Min(@, one)"), "Min"),
    ],
)
def test_whole_numbers_keep_the_operator_that_they_had(steps: tuple[str, ...], left: str) -> None:
    assert laws.left_by(ActivationMerging(), limited(*steps, kind="int64")) == [left]
