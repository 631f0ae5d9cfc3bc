from __future__ import annotations

import numpy as np
import pytest

from passes.attention_bias_fusion import AttentionBiasFusion
from tests import laws
from tests.attention_graphs import GRAPHS


@pytest.mark.parametrize("name", ["biased_attention", "biased_attention_without_key"])
def test_biases_are_added_inside(name: str) -> None:
    model = GRAPHS[name]()
    left = laws.left_by(AttentionBiasFusion(), model)
    assert [one for one in left if one != "Identity"] == ["MultiHeadAttention", "Neg"]


def test_zeros_stand_for_the_bias_of_keys_that_have_none() -> None:
    model = GRAPHS["biased_attention_without_key"]()
    AttentionBiasFusion()(model)
    (fused,) = [node for node in model.graph if node.op_type == "MultiHeadAttention"]
    rows = np.split(fused.inputs[3].const_value.numpy(), 3)
    assert [bool(row.any()) for row in rows] == [True, False, True]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("biased_attention_added_already", "it adds 'bq24' already"),
        ("biased_attention_of_queries_alone", "one of the three has a bias, and zeros would be added"),
        ("biased_attention_of_heads", "its keys and values do not come joined, each alone"),
    ],
)
def test_refusals(name: str, reason: str) -> None:
    assert laws.reasons(AttentionBiasFusion(), GRAPHS[name]()) == [reason]
