from __future__ import annotations

import numpy as np
import pytest

from passes.rms_normalization_fusion import RmsNormalizationFusion
from tests.transformer_graphs import GRAPHS, rms_norm


@pytest.mark.parametrize("name", ["rms_norm", "rms_norm_over", "rms_norm_half_precision"])
def test_a_norm_is_one_operator(name: str) -> None:
    model = GRAPHS[name]()
    assert RmsNormalizationFusion()(model).modified
    (node,) = model.graph
    assert node.op_type == "RMSNormalization"
    assert node.attributes["epsilon"].as_float() == np.float32(1e-5)


@pytest.mark.parametrize("name", ["rms_norm_unweighted", "rms_norm_weight_is_an_input"])
def test_a_norm_without_a_constant_weight_has_ones(name: str) -> None:
    """A model that nobody trained has ones for weights, and a product with ones is taken for nothing elsewhere."""
    model = GRAPHS[name]()
    assert RmsNormalizationFusion()(model).modified
    (node,) = [node for node in model.graph if node.op_type == "RMSNormalization"]
    np.testing.assert_array_equal(node.inputs[1].const_value.numpy(), np.ones(16, np.float32))


@pytest.mark.parametrize(
    ("name", "reasons"),
    [
        ("rms_norm_of_another", ["'x' is divided by the root of the squares of 'z'"]),
        ("rms_norm_opset_21", ["opset 21 has no RMSNormalization; it came with 23"]),
    ],
)
def test_refusals(name: str, reasons: list[str]) -> None:
    graph_pass = RmsNormalizationFusion()
    assert not graph_pass(GRAPHS[name]()).modified
    assert [refusal.reason for refusal in graph_pass.refusals] == reasons


def test_an_axis_of_any_width_is_refused() -> None:
    """Not among GRAPHS: it runs at the width of its weight alone, and the laws make up another."""
    graph_pass = RmsNormalizationFusion()
    assert not graph_pass(rms_norm(width="W")).modified
    (refusal,) = graph_pass.refusals
    assert refusal.reason == "its weight 'w' of shape [16] is no vector for an axis of None"
