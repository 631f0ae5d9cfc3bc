from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
import onnxruntime as ort
import pytest

from passes.norm_separation import NormSeparation
from tests import laws
from tests.transformer_graphs import GRAPHS


def operators_of_a_session(model: ir.Model, folder: Path) -> set[str]:
    """What ONNX Runtime computes on a CPU once its own optimizer has seen the graph."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 4
    ort.InferenceSession(laws.to_bytes(model), options, providers=["CPUExecutionProvider"])
    return {node.op_type for node in ir.load(folder / "optimized.onnx").graph}


def test_onnx_runtime_leaves_the_two_apart(tmp_path: Path) -> None:
    model = GRAPHS["skip_layer_norm_is_unread"]()
    assert "SkipLayerNormalization" in operators_of_a_session(model, tmp_path), "it does by itself: the pass has no use"
    assert NormSeparation()(model).modified
    assert "SkipLayerNormalization" not in operators_of_a_session(model, tmp_path)


def test_the_sum_is_written_so_that_it_stays() -> None:
    assert laws.left_by(NormSeparation(), GRAPHS["skip_layer_norm_is_unread"]())[:2] == ["Identity", "Sum"]


def test_a_sum_that_goes_on_is_refused() -> None:
    (reason,) = laws.reasons(NormSeparation(), GRAPHS["skip_layer_norm"]())
    assert reason.startswith("others read the sum")


@pytest.mark.parametrize("name", ["skip_norm_is_unread", "layer_norm"])
def test_norms_of_other_kinds_and_of_no_sum_stay(name: str) -> None:
    assert not NormSeparation()(GRAPHS[name]()).modified
