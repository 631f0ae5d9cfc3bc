from __future__ import annotations

import pytest

from passes.gelu_fusion import GeluFusion
from tests.transformer_graphs import GRAPHS


@pytest.mark.parametrize(
    ("form", "approximate"),
    [("erf", "none"), ("erf_halved_last", "none"), ("tanh", "tanh"), ("tanh_cubed_by_hand", "tanh")],
)
def test_a_gelu_is_one_operator(form: str, approximate: str) -> None:
    model = GRAPHS[f"gelu_{form}"]()
    assert GeluFusion()(model).modified
    (node,) = model.graph
    assert (node.op_type, node.attributes["approximate"].as_string()) == ("Gelu", approximate)


@pytest.mark.parametrize("form", ["of_another", "wrong_root", "not_halved"])
def test_what_only_looks_like_one_stays(form: str) -> None:
    assert not GeluFusion()(GRAPHS[f"gelu_{form}"]()).modified


def test_an_old_opset_is_refused() -> None:
    graph_pass = GeluFusion()
    assert not graph_pass(GRAPHS["gelu_opset_19"]()).modified
    assert [refusal.reason for refusal in graph_pass.refusals] == ["opset 19 has no Gelu; it came with 20"]
