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


@pytest.mark.parametrize("operator", ["Mul(m, k)", "Add(m, k)"])
def test_a_vector_times_a_matrix_is_no_matrix(operator: str) -> None:
    text = f"(float[3] x) => (float[1,4] y) {{ m = MatMul(x, w)  y = {operator} }}"
    model = graphs.build(text, w=graphs.normal(3, 4), k=graphs.normal(1, 4))
    (found,) = laws.reasons(AffineFusion(), model)
    assert "input is a vector" in found


@pytest.mark.parametrize("operator", ["Div(m, k)", "Mul(m, k)"])
def test_whole_numbers_are_left_alone(operator: str) -> None:
    """7 / 2 is 3, and 7 (1 / 2) none; beyond 2^53 a product is no float64 either."""
    text = f"(int64[2,3] x) => (int64[2,4] y) {{ m = MatMul(x, w)  y = {operator} }}"
    model = graphs.build(text, w=np.full((3, 4), 2**55 + 1), k=np.array(3))
    (found,) = laws.reasons(AffineFusion(), model)
    assert "whole numbers of int64" in found
