from __future__ import annotations

import numpy as np
import pytest

from passes.affine_fusion import AffineFusion
from tests import graphs, laws


def behind_conv(operator: str, **weights: np.ndarray) -> graphs.ir.Model:
    text = f"(float[N,2,6,6] x) => (float[N,4,4,4] y) {{ c = Conv(x, w, b)  y = {operator} }}"
    return graphs.build(text, w=graphs.normal(4, 2, 3, 3), b=graphs.normal(4), **weights)


@pytest.mark.parametrize("operator", ["Mul(c, k)", "Mul(k, c)", "Add(k, c)", "Sub(c, k)", "Sub(k, c)", "Div(c, k)"])
@pytest.mark.parametrize("shape", [(4, 1, 1), (1, 4, 1, 1), (1,), ()])
def test_a_constant_for_each_channel_is_free(operator: str, shape: tuple[int, ...]) -> None:
    number = np.abs(graphs.normal(4))[: int(np.prod(shape))].reshape(shape) + np.float32(0.5)
    assert laws.left_by(AffineFusion(), behind_conv(operator, k=number)) == ["Conv"]


@pytest.mark.parametrize(
    ("operator", "shape", "reason"),
    [
        ("Mul(c, k)", (4,), "differs along another axis than the channels"),
        ("Add(c, k)", (4, 4, 4), "differs along another axis than the channels"),
        ("Add(c, k)", (1, 1, 1, 1, 1), "has more axes than the Conv's result"),
    ],
)
def test_refused_with_a_reason(operator: str, shape: tuple[int, ...], reason: str) -> None:
    text = (
        f"(float[N,2,6,6] x) => (float[A,B,C,D{',E' if len(shape) > 4 else ''}] y) {{ c = Conv(x, w)  y = {operator} }}"
    )
    model = graphs.build(text, w=graphs.normal(4, 2, 3, 3), k=graphs.normal(*shape))
    (found,) = laws.reasons(AffineFusion(), model)
    assert reason in found


def test_a_divisor_of_zero_is_refused() -> None:
    model = behind_conv("Div(c, k)", k=np.array([1, 0, 1, 1], np.float32).reshape(4, 1, 1))
    assert laws.reasons(AffineFusion(), model) == ["a divisor is 0"]


def test_a_number_divided_by_a_product_is_another_thing() -> None:
    assert laws.reasons(AffineFusion(), behind_conv("Div(k, c)", k=np.float32(2))) == []
