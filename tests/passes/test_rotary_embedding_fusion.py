from __future__ import annotations

import pytest

from passes.rotary_embedding_fusion import RotaryEmbeddingFusion
from tests.transformer_graphs import GRAPHS


@pytest.mark.parametrize("name", ["rotary", "rotary_split"])
def test_a_rotation_is_one_operator(name: str) -> None:
    model = GRAPHS[name]()
    assert RotaryEmbeddingFusion()(model).modified
    assert [node.op_type for node in model.graph] == ["Cos", "Mul", "Sin", "Mul", "RotaryEmbedding"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("rotary_of_different_angles", "its angles are not seen to be the same for both halves"),
        ("rotary_opset_21", "opset 21 has no RotaryEmbedding; it came with 23"),
    ],
)
def test_refusals(name: str, reason: str) -> None:
    graph_pass = RotaryEmbeddingFusion()
    assert not graph_pass(GRAPHS[name]()).modified
    assert [refusal.reason for refusal in graph_pass.refusals] == [reason]


def test_the_other_rotation_stays() -> None:
    """concat(-x1, x2) turns the other way round."""
    assert not RotaryEmbeddingFusion()(GRAPHS["rotary_swapped"]()).modified
