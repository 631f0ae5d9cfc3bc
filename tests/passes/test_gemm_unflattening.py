from __future__ import annotations

import pytest

from passes.gemm_unflattening import GemmUnflattening
from tests import laws
from tests.detour_graphs import GRAPHS


@pytest.mark.parametrize(
    ("name", "operators"),
    [
        ("flat_product", ["MatMul", "Add", "Identity"]),
        ("flat_product_matmul", ["MatMul", "Identity"]),
        ("flat_product_turned", ["Transpose", "MatMul", "Add", "Identity"]),
        ("flat_product_without_bias", ["MatMul", "Identity"]),
        ("flat_product_rest_inferred", ["MatMul", "Add", "Identity"]),
    ],
)
def test_rows_are_neither_joined_nor_parted(name: str, operators: list[str]) -> None:
    assert laws.left_by(GemmUnflattening(), GRAPHS[name]()) == operators


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("flat_product_scaled", "the Gemm scales: {'alpha': 0.5, 'beta': 1.0}"),
        ("flat_product_of_turned_rows", "'f' cuts the rows of 'x'"),
        ("flat_product_taken_apart_otherwise", "does not have the axes of 'x' again, or not seen to"),
        ("flat_product_cuts_rows", "'f' cuts the rows of 'x'"),
        ("flat_product_is_read", "the product 'g' has other readers, or is an output"),
        ("flat_product_bias_of_rows", "the bias 'each_row' differs from row to row"),
    ],
)
def test_refusals(name: str, reason: str) -> None:
    (said,) = laws.reasons(GemmUnflattening(), GRAPHS[name]())
    assert said.endswith(reason)
