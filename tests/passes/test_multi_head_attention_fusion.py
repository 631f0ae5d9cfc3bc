from __future__ import annotations

import pytest

from passes.multi_head_attention_fusion import MultiHeadAttentionFusion
from tests.transformer_graphs import GRAPHS


@pytest.mark.parametrize(
    ("name", "operators"),
    [
        ("encoder_attention", {"Neg", "MultiHeadAttention"}),
        ("encoder_attention_full_mask", {"Neg", "MultiHeadAttention"}),
        ("encoder_attention_position_bias", {"Neg", "Add", "MultiHeadAttention"}),
        ("encoder_attention_vacuous_mask", {"Neg", "MultiHeadAttention"}),  # nothing left that made the mask
        ("encoder_attention_mask_per_key", {"Neg", "Shape", "Concat", "Expand", "MultiHeadAttention"}),
    ],
)
def test_an_encoders_attention_is_one_operator(name: str, operators: set[str]) -> None:
    model = GRAPHS[name]()
    assert MultiHeadAttentionFusion()(model).modified
    # What only fed shapes to be known is gone with what it fed; q is needed for its length where the mask is spread.
    assert {node.op_type for node in model.graph} - {"Reshape", "Transpose"} == operators


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("encoder_attention_capped", "its scores are capped, which the operator does not do"),
        ("encoder_attention_of_cached_heads", "its keys and values come as heads, and joining them would copy them"),
        ("attention_eager", "differ, and the operator has one kind of heads"),
    ],
)
def test_refusals(name: str, reason: str) -> None:
    graph_pass = MultiHeadAttentionFusion()
    assert not graph_pass(GRAPHS[name]()).modified
    assert [refusal.reason.endswith(reason) for refusal in graph_pass.refusals] == [True], graph_pass.refusals
