"""What can only be seen on a device: predictions that come true, agreement, engines that are kept. `make test-gpu`."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from compressor import pipeline
from compressor.graph.session import load_model, open_session, save_model
from compressor.providers import backends, libraries, observed, prediction
from compressor.providers.kernels import CUDA, PROVIDERS
from compressor.recipe import recipe
from tests import graphs

pytestmark = pytest.mark.gpu

NETWORK = """(float[N,8,16,16] x) => (float[N,8,16,16] y) {
    c = Conv<pads = [1,1,1,1]>(x, w)  r = Relu(c)  d = Conv<pads = [1,1,1,1]>(r, w)  y = Add(d, x)
}"""
QUANTIZED = """(float[N,8,16,16] x) => (float[N,8,16,16] y) {
    q = QuantizeLinear(x, s, z)  a = DequantizeLinear(q, s, z)  b = DequantizeLinear(w, t, z)
    y = Conv<pads = [1,1,1,1]>(a, b)
}"""
PROFILES = {"x": {"min": [1, 8, 16, 16], "opt": [1, 8, 16, 16], "max": [4, 8, 16, 16]}}


@pytest.fixture(params=["cuda", "tensorrt"])
def target(request: pytest.FixtureRequest) -> str:
    """A target that loads; its absence is the reason that pytest prints."""
    name = str(request.param)
    if reason := libraries.obstacle(PROVIDERS[name]):
        pytest.skip(f"{name}: {reason}")
    return name


def network(folder: Path) -> Path:
    save_model(graphs.build(NETWORK, w=graphs.normal(8, 8, 3, 3) / 8), folder / "model.onnx")
    return folder / "model.onnx"


def test_a_network_runs_where_it_was_predicted_to(target: str, tmp_path: Path) -> None:
    path = network(tmp_path)
    backend = backends.find(target, path, engines=tmp_path / "engines", profiles=PROFILES)
    found, predicted = observed.assignment(path, backend), prediction.predict(load_model(path), target)
    assert found.nodes.keys() == {one.provider for one in predicted.placed} == {PROVIDERS[target]}
    assert found.copies == len(predicted.copies) == 0


def test_outputs_agree_at_several_shapes(target: str, tmp_path: Path) -> None:
    path = network(tmp_path)
    backend = backends.find(target, path, engines=tmp_path / "engines", profiles=PROFILES)
    served, exact = open_session(path, "served", backend=backend), open_session(path, "exact")
    for rows in (1, 3, 4):
        x = np.random.default_rng(rows).standard_normal((rows, 8, 16, 16), np.float32)
        # Sums of 72 products in another order; TensorRT's own choice of TF32 keeps 10 bits: 72 * 2^-11.
        np.testing.assert_allclose(served.run(None, {"x": x})[0], exact.run(None, {"x": x})[0], atol=0.04, rtol=0)


def test_an_engine_is_built_once(tmp_path: Path) -> None:
    if reason := libraries.obstacle(PROVIDERS["tensorrt"]):
        pytest.skip(f"tensorrt: {reason}")
    weights = {"s": np.float32(0.05), "t": np.float32(0.01), "z": np.int8(0), "w": np.ones((8, 8, 3, 3), np.int8)}
    path = tmp_path / "model.onnx"
    save_model(graphs.build(QUANTIZED, **weights), path)
    seconds = []
    for _ in range(2):
        begin = time.perf_counter()
        backend = backends.find("tensorrt", path, engines=tmp_path / "engines", profiles=PROFILES)
        open_session(path, "served", backend=backend)
        seconds.append(time.perf_counter() - begin)
    assert any((tmp_path / "engines").glob("*.engine"))
    assert seconds[1] < seconds[0]


def test_the_built_in_decoder_is_validated_on_cuda(tmp_path: Path) -> None:
    if reason := libraries.obstacle(CUDA):
        pytest.skip(f"cuda: {reason}")
    chosen = recipe.build(
        {"model": "builtin:tiny-lm", "target": "cuda", "export": {"dtype": "float16"}, "validate": {"latency": {}}}
    )
    _, report = pipeline.run(chosen, tmp_path / "out")
    values = {one.name: one.value for one in report.measurements}
    assert values["share of FLOPs on cuda"] > 0.99
    assert values["device memory"] > 0
