from __future__ import annotations

import numpy as np
import pytest

from passes.multi_head_attention_fusion import MultiHeadAttentionFusion
from tests import laws
from tests.attention_graphs import GRAPHS


@pytest.mark.parametrize(
    ("name", "operators"),
    [
        ("encoder_attention", {"Neg", "MultiHeadAttention"}),
        ("encoder_attention_full_mask", {"Neg", "MultiHeadAttention"}),
        ("encoder_attention_position_bias", {"Neg", "Add", "MultiHeadAttention"}),
        ("encoder_attention_vacuous_mask", {"Neg", "MultiHeadAttention"}),  # nothing left that made the mask
        ("encoder_attention_keys_turned_at_once", {"Neg", "MultiHeadAttention"}),
        ("encoder_attention_hidden", {"Neg", "Where", "Shape", "Concat", "Expand", "MultiHeadAttention"}),
        ("encoder_attention_seen", {"Neg", "Where", "Shape", "Concat", "Expand", "MultiHeadAttention"}),
        ("encoder_attention_opset_13", {"Neg", "Shape", "Gather", "Concat", "Expand", "MultiHeadAttention"}),
        ("encoder_attention_of_cached_heads", {"MultiHeadAttention"}),
        ("encoder_attention_narrow_values", {"Neg", "Shape", "Concat", "Expand", "MultiHeadAttention"}),
        ("encoder_attention_mask_per_key", {"Neg", "Shape", "Concat", "Expand", "MultiHeadAttention"}),
    ],
)
def test_an_encoders_attention_is_one_operator(name: str, operators: set[str]) -> None:
    model = GRAPHS[name]()
    assert MultiHeadAttentionFusion()(model).modified
    # What only fed shapes to be known is gone with what it fed; q is needed for its length where the mask is spread.
    assert {node.op_type for node in model.graph} - {"Reshape", "Transpose"} == operators


@pytest.mark.parametrize("name", ["decoder_attention", "decoder_attention_operator"])
def test_a_cache_grows_inside_of_it(name: str) -> None:
    """Heads are neither split nor joined around it, and rows are more than one on a cache that is filled."""
    model = GRAPHS[name]()
    assert MultiHeadAttentionFusion()(model).modified
    operators = [node.op_type for node in model.graph]
    assert operators.count("MultiHeadAttention") == 1
    assert {"Softmax", "Attention", "MatMul", "Transpose"}.isdisjoint(operators)
    (fused,) = [node for node in model.graph if node.op_type == "MultiHeadAttention"]
    assert [value.name for value in fused.inputs[6:]] == ["past_k", "past_v"]
    assert [value.name for value in fused.outputs[1:]] == ["present_k", "present_v"]


def test_keys_of_an_encoder_are_read_as_heads() -> None:
    model = GRAPHS["encoder_attention_of_cached_keys"]()
    assert MultiHeadAttentionFusion()(model).modified
    (fused,) = [node for node in model.graph if node.op_type == "MultiHeadAttention"]
    assert fused.inputs[1].name == "heads"
    assert fused.inputs[2].name == "v"  # values that were split stay so: one of the two would be copied


def test_a_row_that_sees_nothing_is_nan_where_it_was() -> None:
    """Scores of minus infinity alone: DistilBERT's way to hide what is padded."""
    model = GRAPHS["standard_attention_hidden_by_infinity"]()
    feeds = laws.feeds_for(model)
    feeds["mask"] = np.ones_like(feeds["mask"])
    feeds["mask"][0] = False
    before = laws.run(model, feeds)
    assert np.isnan(before["y"]).any(axis=(1, 2)).tolist() == [False, True]
    assert MultiHeadAttentionFusion()(model).modified
    laws.assert_same(before, laws.run(model, feeds))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("encoder_attention_capped", "its scores are capped, which the operator does not do"),
        ("decoder_attention_softcap", "its scores are capped, which the operator does not do"),
        ("encoder_attention_narrow_values_of_cached_keys", "come as heads, and the operator has one kind of them"),
        ("attention_eager", "differ, and the operator has one kind of heads"),
    ],
)
def test_refusals(name: str, reason: str) -> None:
    graph_pass = MultiHeadAttentionFusion()
    assert not graph_pass(GRAPHS[name]()).modified
    assert [refusal.reason.endswith(reason) for refusal in graph_pass.refusals] == [True], graph_pass.refusals
