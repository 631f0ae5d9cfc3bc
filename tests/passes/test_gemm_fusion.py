from __future__ import annotations

import numpy as np
import pytest

from passes.gemm_fusion import GemmFusion
from tests import graphs, laws


def product(summand: str = "c", x: str = "5,3", **weights: np.ndarray) -> graphs.ir.Model:
    text = f"(float[{x}] x) => (float[A,B] y) {{ m = MatMul(x, w)  y = Add(m, {summand}) }}"
    return graphs.build(text, w=graphs.normal(3, 4), **weights)


@pytest.mark.parametrize("shape", [(4,), (1, 4), (5, 4), (5, 1), ()])
def test_product_and_summand_are_one_gemm(shape: tuple[int, ...]) -> None:
    assert laws.left_by(GemmFusion(), product(c=graphs.normal(*shape))) == ["Gemm"]


def test_a_transpose_before_it_is_an_attribute() -> None:
    text = """(float[3,5] x, float[4,3] z) => (float[5,4] y) {
        a = Transpose<perm = [1,0]>(x)  b = Transpose<perm = [1,0]>(z)  y = Gemm(a, b)
    }"""
    model = graphs.build(text)
    assert laws.left_by(GemmFusion(), model) == ["Gemm"]
    assert {name: one.as_int() for name, one in model.graph[0].attributes.items()} == {"transA": 1, "transB": 1}


@pytest.mark.parametrize(
    ("x", "shape", "reason"),
    [
        ("1,3", (6, 4), "the summand may be larger than the product"),
        ("5,3", (1, 1, 4), "the summand has more than two axes"),
    ],
)
def test_refused_with_a_reason(x: str, shape: tuple[int, ...], reason: str) -> None:
    text = f"(float[{x}] x) => (float[A,B{',C' if len(shape) > 2 else ''}] y) {{ m = MatMul(x, w)  y = Add(m, c) }}"
    model = graphs.build(text, w=graphs.normal(3, 4), c=graphs.normal(*shape))
    assert laws.reasons(GemmFusion(), model) == [reason]


def test_a_product_that_others_read_is_refused() -> None:
    text = "(float[5,3] x) => (float[5,4] y, float[5,4] m) { m = MatMul(x, w)  y = Add(m, c) }"
    model = graphs.build(text, w=graphs.normal(3, 4), c=graphs.normal(4))
    assert "has other readers, or is an output" in laws.reasons(GemmFusion(), model)[0]


def test_products_of_more_axes_and_of_whole_numbers_are_no_candidates() -> None:
    text = "(float[2,5,3] x) => (float[2,5,4] y) { m = MatMul(x, w)  y = Add(m, c) }"
    assert laws.reasons(GemmFusion(), graphs.build(text, w=graphs.normal(3, 4), c=graphs.normal(4))) == []
    text = "(int32[5,3] x) => (int32[5,4] y) { m = MatMul(x, w)  y = Add(m, c) }"
    ones = {"w": np.ones((3, 4), np.int32), "c": np.ones(4, np.int32)}
    assert laws.reasons(GemmFusion(), graphs.build(text, **ones)) == []


def test_a_transpose_that_moves_nothing_turns_no_matrix() -> None:
    """Two that undo each other are one by then, and it has not been dropped yet."""
    text = "(float[4,4] x) => (float[4,3] y) { a = Transpose<perm = [0,1]>(x)  y = Gemm(a, w) }"
    assert laws.left_by(GemmFusion(), graphs.build(text, w=graphs.normal(4, 3))) == ["Transpose", "Gemm"]
