from __future__ import annotations

import numpy as np
import pytest

from compressor import catalog
from passes import run_passes
from passes.layer_normalization_fusion import LayerNormalizationFusion
from tests import laws
from tests.transformer_graphs import GRAPHS


@pytest.mark.parametrize(
    ("name", "inputs"), [("layer_norm", 3), ("layer_norm_power", 3), ("layer_norm_without_bias", 2)]
)
def test_a_norm_is_one_operator(name: str, inputs: int) -> None:
    model = GRAPHS[name]()
    assert LayerNormalizationFusion()(model).modified
    (node,) = model.graph
    assert (node.op_type, len(node.inputs)) == ("LayerNormalization", inputs)
    assert node.attributes["epsilon"].as_float() == np.float32(1e-5)
    laws.assert_same(laws.run(GRAPHS[name]()), laws.run(model))


@pytest.mark.parametrize(
    ("name", "reasons"),
    [
        ("layer_norm_of_another", ["'v' is not the variance of 'x'"]),
        ("layer_norm_of_rows", ["'row' of shape [6,16] is no vector for an axis of 16"]),
        ("layer_norm_opset_11", ["opset 11 has no LayerNormalization; it came with 17"]),
        ("rms_norm", []),
    ],
)
def test_refusals(name: str, reasons: list[str]) -> None:
    graph_pass = LayerNormalizationFusion()
    assert not graph_pass(GRAPHS[name]()).modified
    assert [refusal.reason for refusal in graph_pass.refusals] == reasons


@pytest.mark.parametrize("target", ["generic", "cpu"])
def test_it_comes_before_the_norm_without_a_mean(target: str) -> None:
    passes = [catalog.resolve(catalog.PASSES[name].where)() for name in catalog.passes_for(target)]
    result, _ = run_passes(GRAPHS["layer_norm"](), passes, laws.run)
    assert [node.op_type for node in result.graph] == ["LayerNormalization"]
