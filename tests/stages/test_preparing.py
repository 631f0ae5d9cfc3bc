"""AWQ and SmoothQuant the product's way: the float graph computes what it did, and rounding loses no more."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compressor import builtin, pipeline, sources
from compressor.artifact import Artifact
from compressor.errors import RecipeError
from compressor.graph.decoder import Decoder, DecoderSession
from compressor.graph.session import load_model, open_session, save_model
from compressor.recipe import recipe
from compressor.shelf import Shelf
from tests import graphs, laws
from tests.conftest import ROOT

VOCABULARY, WIDTH, INNER = 512, 64, 96
TEXT = """(int64[N,T] input_ids) => (float[N,T,64] y) {
    e = Gather(table, input_ids)  n = RMSNormalization<axis = -1>(e, g)
    a = MatMul(n, wa)  b = MatMul(n, wb)  s = Sigmoid(a)  p = Mul(s, b)  d = MatMul(p, wd)  y = Add(d, e)
}"""


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """A gated layer whose norm makes some channels twenty times as loud."""
    folder = tmp_path / "layer"
    folder.mkdir()
    weights = {
        "table": graphs.normal(VOCABULARY, WIDTH),
        "g": np.where(np.arange(WIDTH) % 16 == 3, 20, 1).astype(np.float32),
        "wa": graphs.normal(WIDTH, INNER),
        "wb": graphs.normal(WIDTH, INNER),
        "wd": graphs.normal(INNER, WIDTH),
    }
    save_model(graphs.build(TEXT, opset=23, **weights), folder / "model.onnx")
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(builtin.TINY_LM / name, folder / name)
    return folder / "model.onnx"


def outputs(path: Path, ids: np.ndarray, how: Any = "exact") -> np.ndarray:
    (found,) = open_session(path, how).run(None, {"input_ids": ids})
    return np.asarray(found)


def made(graph: Path, shelf: Path, quantize: dict[str, Any]) -> tuple[Artifact, Artifact]:
    asked = {"model": str(graph), "target": "cpu", "calibration": {"samples": 32, "length": 32}}
    options = recipe.build(asked | {"quantize": {**quantize, "exclude": []}})
    source = sources.open_input(graph)
    quantized = pipeline.quantize(source, options, Shelf(shelf))
    return quantized, pipeline.package(source, quantized, options, Shelf(shelf))


def lost(graph: Path, packed: Artifact) -> float:
    ids = np.random.default_rng(1).integers(5, VOCABULARY, (64, 12))
    return float(np.square(outputs(packed.model, ids, "served") - outputs(graph, ids)).mean())


def test_awq_changes_nothing_but_the_rounding(graph: Path, tmp_path: Path) -> None:
    plain: dict[str, Any] = {"rtn": {"bits": 3, "group_size": 32}}
    quantized, packed = made(graph, tmp_path / "stages", plain | {"awq": {}})
    ids = np.random.default_rng(1).integers(5, VOCABULARY, (4, 12))
    laws.assert_same({"y": outputs(graph, ids)}, {"y": outputs(quantized.model, ids)})
    rows = quantized.facts["prepared"]
    assert [(row["input"], row["weights"]) for row in rows] == [("g", ["wa", "wb"]), ("wb", ["wd"])]
    assert all(row["error_ratio"] <= 1 for row in rows)
    assert rows[0]["alpha"] > 0  # channels that are twenty times as loud
    operators = [node.op_type for node in load_model(packed.model).graph]
    assert operators == [node.op_type.replace("MatMul", "MatMulNBits") for node in load_model(graph).graph]
    assert lost(graph, packed) < lost(graph, made(graph, tmp_path / "stages", plain)[1])


def test_awq_alone_is_rounded_and_serves_gptq_as_well(graph: Path, tmp_path: Path) -> None:
    assert recipe.build({"model": "x", "quantize": {"awq": {}}}).quantize.name == "rtn"
    assert recipe.build({"model": "x", "quantize": {"smoothquant": {}}}).quantize.name == "static_qdq"
    quantized, packed = made(graph, tmp_path / "stages", {"awq": {}, "gptq": {"bits": 3, "group_size": 32}})
    assert packed.facts["method"].startswith("awq, gptq, 3 bits")
    assert quantized.facts["fallbacks"] == []


@pytest.mark.parametrize(("name", "method"), [("awq", "rtn"), ("smoothquant", "dynamic")])
def test_a_preparation_that_finds_nothing_to_do_is_a_fallback(
    name: str, method: str, graph: Path, tmp_path: Path
) -> None:
    """As in an encoder with its norms behind the sums: what they make is read by more than products."""
    text = """(int64[N,T] input_ids) => (float[N,T,64] y) {
        x = Gather(table, input_ids)  n = LayerNormalization<axis = -1>(x, g)  a = MatMul(n, wa)  y = Add(n, a)
    }"""
    weights = {"table": graphs.normal(VOCABULARY, 64), "g": graphs.normal(64), "wa": graphs.normal(64, 64)}
    save_model(graphs.build(text, opset=21, **weights), graph)
    quantized, _ = made(graph, tmp_path / "stages", {name: {}, method: {}})
    (line,) = quantized.facts["fallbacks"]
    assert line.startswith(
        f"{name} changed nothing: no product with a weight of its own has an input whose factor can be folded"
    )


def test_plain_rounding_is_compared_after_the_same_preparation() -> None:
    asked = {"awq": {}, "rotations": {}, "embeddings": 8, "gptq": {"bits": 3}}
    options = recipe.build({"model": "x", "target": "cpu", "quantize": asked}).quantize
    rounded = options.rounded()
    assert (rounded.name, rounded.prepared, rounded.embeddings) == ("rtn", ("rotations", "awq"), 8)


def test_only_what_looks_at_data_asks_for_it() -> None:
    def calibrated(**quantize: Any) -> bool:
        return recipe.build({"model": "x", "target": "cpu", "quantize": quantize}).quantize.calibrated

    assert not calibrated(rotations={}, rtn={})
    assert calibrated(awq={})
    assert calibrated(rtn={"scale_search": "weighted"})
    assert calibrated(smoothquant={}, dynamic={})


@pytest.mark.parametrize("method", ["static_qdq", "dynamic"])
def test_smoothquant_halves_what_integers_lose(method: str, graph: Path, tmp_path: Path) -> None:
    """Squared error; what remains is that of the activations behind the gate, which are even."""
    _, packed = made(graph, tmp_path / "stages", {"smoothquant": {}, method: {}})
    assert lost(graph, packed) < 0.5 * lost(graph, made(graph, tmp_path / "stages", {method: {}})[1])


@pytest.mark.parametrize(
    ("data", "line"),
    [
        ({"quantize": {"awq": {}, "dynamic": {}}}, "quantize.awq: awq prepares for rtn or gptq, not for dynamic"),
        ({"quantize": {"smoothquant": {}, "rtn": {}}}, "smoothquant prepares for static_qdq or dynamic, not for rtn"),
        (
            {"quantize": {"awq": {}, "gptq": {}}, "package": {"format": "gptq"}},
            "quantize.awq: awq changes weights that a gptq package copies; use matmulnbits or qdq",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(data: dict[str, Any], line: str) -> None:
    with pytest.raises(RecipeError, match=line):
        recipe.build({"model": "x", **data})


def test_a_decoder_is_rotated_with_the_values_of_its_heads(tmp_path: Path) -> None:
    """The built-in model as it is optimized for a CPU: attention is one operator, its cache holds rotated values."""
    asked = {"model": "builtin:tiny-lm", "target": "cpu", "calibration": {"samples": 4, "length": 64}}
    options = recipe.build(asked | {"quantize": {"rotations": {"untie": True}, "rtn": {"bits": 8}}})
    shelf = Shelf(tmp_path)
    optimized = pipeline.optimize(pipeline.export(sources.find(options.model), options, shelf), options, shelf)
    quantized = pipeline.quantize(optimized, options, shelf)
    stream, heads = quantized.facts["prepared"]
    assert len(heads["weights"]) > 0
    assert len(stream["weights"]) >= 7 * len(heads["weights"])
    found = []
    for made in (optimized, quantized):
        sizes = Decoder.of(load_model(made.model))
        assert sizes is not None
        ids = np.random.default_rng(0).integers(5, 200, (2, 24))
        found.append(DecoderSession(sizes, open_session(made.model, "exact")).logits(ids, np.ones_like(ids)))
    # Float32 through every layer in other axes: some 2^-23 of the largest for each of a few dozen products.
    np.testing.assert_allclose(found[1], found[0], rtol=0, atol=1e-4 * np.abs(found[0]).max())


FOLLOWER = """
import sys
from pathlib import Path
from compressor.recipe import recipe
from compressor.stages import preparing
preparing.opened(Path(sys.argv[1]), recipe.build({"model": "a.onnx", "quantize": {"rtn": {}}}))
"""


def test_a_process_that_has_loaded_nothing_else_opens_a_graph(tmp_path: Path) -> None:
    """As the second of several ranks does, which is told what to quantize and nothing before."""
    text = "(float[N,64] x) => (float[N,64] y) { y = MatMul(x, w) }"
    save_model(graphs.build(text, opset=21, w=graphs.normal(64, 64)), tmp_path / "a.onnx")
    command = [sys.executable, "-c", FOLLOWER, str(tmp_path / "a.onnx")]
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=variables)
    assert ended.returncode == 0, ended.stderr
