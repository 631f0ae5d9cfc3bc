"""Files that nobody here made: every pass keeps their answers, and finds nothing to do the second time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from onnx_ir.passes import common

from passes import run_passes
from passes.constant_folding import ConstantFolding
from passes.conv_batchnorm_fusion import ConvBatchNormFusion
from passes.dead_node_elimination import DeadNodeElimination
from passes.dropout_removal import DropoutRemoval
from tests import laws

pytestmark = pytest.mark.eval

ZOO = Path(__file__).parents[3] / "shared" / "eval" / "onnx-zoo"
FILES = sorted(path.relative_to(ZOO).as_posix() for path in ZOO.rglob("*.onnx"))

PASSES = (DropoutRemoval, ConvBatchNormFusion, ConstantFolding, DeadNodeElimination)

DOES_NOT_LOAD = {
    "ext_arbitrary_path/ext_arbitrary_path.onnx": "its weights are /etc/passwd",
    "opset_01.onnx": "ONNX Runtime has no kernels for opset 1",
}
DOES_NOT_RUN = {
    "opset_13.onnx": "a Reshape in it cannot be computed",
    "optional_if_issue11717.onnx": "its input is optional(tensor(int32))",
    "ort_if_constant_folding_issue29071.onnx": "its dimensions bear no random input",
}
# After onnx's shape inference ONNX Runtime refuses it: a branch of optional type became a plain tensor.
SPOILED_BY_SHAPE_INFERENCE = "optional_if_issue11717.onnx"
SILERO = {"input": (1, 576), "state": (2, 1, 128)}


def load(file: str) -> ir.Model:
    if not FILES:
        pytest.skip(f"{ZOO} is absent")
    model = ir.load(ZOO / file)
    ir.external_data.load_to_model(model)
    return model


def feeds_for(model: ir.Model, file: str) -> dict[str, np.ndarray]:
    if "silero" not in file:
        return laws.feeds_for(model, free_dimension=1)
    rng = np.random.default_rng(7)
    state = {name: rng.normal(size=shape).astype(np.float32) * 0.1 for name, shape in SILERO.items()}
    return {**state, "sr": np.array(16000)}


def normalized(model: ir.Model) -> ir.Model:
    """What a pipeline does before its passes, and what lets them see more: private weights, known shapes."""
    model.ir_version = max(model.ir_version, 8)
    common.RemoveInitializersFromInputsPass()(model)
    common.ShapeInferencePass()(model)
    return model


@pytest.mark.parametrize("prepare", [lambda model: model, normalized], ids=["as_found", "normalized"])
@pytest.mark.parametrize("file", FILES or ["absent"])
def test_a_model_survives_the_passes(file: str, prepare: Callable[[ir.Model], ir.Model]) -> None:
    if file in DOES_NOT_LOAD:
        pytest.skip(DOES_NOT_LOAD[file])
    if file == SPOILED_BY_SHAPE_INFERENCE and prepare is normalized:
        pytest.skip("shape inference made it invalid before any pass")
    model = prepare(load(file))
    feeds = {} if file in DOES_NOT_RUN else feeds_for(model, file)
    probe = None if file in DOES_NOT_RUN else lambda candidate: laws.run(candidate, feeds)
    result, outcomes = run_passes(model, [graph_pass() for graph_pass in PASSES], probe)
    assert [outcome.rolled_back for outcome in outcomes] == [None] * len(PASSES)
    laws.open_session(result)
    _, again = run_passes(result, [graph_pass() for graph_pass in PASSES])
    assert not any(outcome.modified for outcome in again)


@pytest.mark.parametrize(
    ("file", "before", "after"),
    [
        ("light_resnet50.onnx", 415, 319),
        ("ort_dropout.onnx", 11, 7),
        ("ort_fuse_conv_bn_no_bias.onnx", 3, 2),
        ("real_face_rfb320_raw.onnx", 242, 135),
        ("real_mnist_cntk8/real_mnist_cntk8.onnx", 12, 11),
        ("real_rul_cnn_dropout_matlab.onnx", 13, 12),
        ("real_silero_vad_16k_op15.onnx", 350, 241),
        ("real_unet_upsample_small.onnx", 102, 42),
    ],
)
def test_the_passes_fire(file: str, before: int, after: int) -> None:
    """Node counts of normalized files, before the first and after the last pass."""
    _, outcomes = run_passes(normalized(load(file)), [graph_pass() for graph_pass in PASSES])
    assert (outcomes[0].nodes_before, outcomes[-1].nodes_after) == (before, after)
