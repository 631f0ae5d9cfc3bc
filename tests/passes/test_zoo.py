"""Files that nobody here made: every pass keeps their answers, and finds nothing to do the second time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from compressor import catalog
from passes import run_passes
from tests import laws

pytestmark = pytest.mark.eval

ZOO = Path(__file__).parents[3] / "shared" / "eval" / "onnx-zoo"
FILES = sorted(path.relative_to(ZOO).as_posix() for path in ZOO.rglob("*.onnx"))

PASSES = [catalog.resolve(entry.where) for entry in catalog.PASSES.values() if "generic" in entry.targets]

DOES_NOT_LOAD = {
    "ext_arbitrary_path/ext_arbitrary_path.onnx": "its weights are /etc/passwd",
    "opset_01.onnx": "ONNX Runtime has no kernels for opset 1",
}
DOES_NOT_RUN = {
    "opset_13.onnx": "a Reshape in it cannot be computed",
    "optional_if_issue11717.onnx": "its input is optional(tensor(int32))",
    "ort_if_constant_folding_issue29071.onnx": "its dimensions bear no random input",
}
NODES = {
    "exp_bert_tiny_optimum.onnx": 119,
    "ort_dropout.onnx": 4,
    "ort_fuse_conv_bn_no_bias.onnx": 2,
    "real_face_rfb320_raw.onnx": 160,
    "real_rul_cnn_dropout_matlab.onnx": 12,
}
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


@pytest.mark.parametrize("file", FILES or ["absent"])
def test_a_model_survives_the_passes(file: str) -> None:
    if file in DOES_NOT_LOAD:
        pytest.skip(DOES_NOT_LOAD[file])
    model = load(file)
    feeds = {} if file in DOES_NOT_RUN else feeds_for(model, file)
    probe = None if file in DOES_NOT_RUN else lambda candidate: laws.run(candidate, feeds)
    result, outcomes = run_passes(model, [graph_pass() for graph_pass in PASSES], probe)
    assert not [outcome.rolled_back for outcome in outcomes if outcome.rolled_back]
    laws.open_session(result)
    reloaded = ir.from_proto(onnx.load_from_string(laws.to_bytes(result)))
    _, again = run_passes(reloaded, [graph_pass() for graph_pass in PASSES])
    assert [outcome.name for outcome in again if outcome.modified] == []


@pytest.mark.parametrize(("file", "nodes"), NODES.items())
def test_the_passes_fire(file: str, nodes: int) -> None:
    """At most as many nodes as the best of onnxsim, OnnxSlim, onnxscript and ONNX Runtime's level 1 leaves."""
    result, _ = run_passes(load(file), [graph_pass() for graph_pass in PASSES])
    assert sum(1 for _ in result.graph.all_nodes()) <= nodes
