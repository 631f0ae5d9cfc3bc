"""A graph that is no decoder: text through its tokenizer, each weight solved on what reaches it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from compressor import builtin, pipeline, recipe, sources
from compressor.artifact import Shelf
from compressor.errors import RequestError
from compressor.session import open_session, save_model
from tests import graphs

VOCABULARY, WIDTH = 512, 64
# Two words are mixed before the matrices, so that inputs are correlated; the last product is a Gemm with a bias.
TEXT = """(int64[N,T] input_ids) => (float[N,8] y) {
    e = Gather(table, input_ids)  m = MatMul(e, mix)  a = MatMul(m, wa)  r = Relu(a)  b = MatMul(r, wb)
    s = Add(b, m)  p = ReduceMean<keepdims = 0>(s, axis)  y = Gemm<transB = 1>(p, wc, bias)
}"""


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    folder = tmp_path / "encoder"
    folder.mkdir()
    rng = np.random.default_rng(0)
    narrow = rng.normal(size=(WIDTH, 8)) @ rng.normal(size=(8, WIDTH)) / 8 + 0.1 * np.eye(WIDTH)
    weights = {
        "table": graphs.normal(VOCABULARY, WIDTH),
        "mix": narrow.astype(np.float32),
        "wa": graphs.normal(WIDTH, 96),
        "wb": graphs.normal(96, WIDTH),
        "wc": graphs.normal(8, WIDTH),
        "bias": graphs.normal(8),
    }
    save_model(graphs.build(TEXT, opset=21, **weights, axis=np.array([1])), folder / "model.onnx")
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(builtin.TINY_LM / name, folder / name)
    return folder / "model.onnx"


def test_gptq_on_an_encoder_beats_rounding_where_it_counts(encoder: Path, tmp_path: Path) -> None:
    source, shelf = sources.open_input(encoder), Shelf(tmp_path / "stages")
    ids = np.random.default_rng(1).integers(5, VOCABULARY, (64, 12))
    (exact,) = open_session(encoder, "exact").run(None, {"input_ids": ids})
    lost = {}
    for method in ("rtn", "gptq"):
        options = {"model": str(encoder), "calibration": {"samples": 32, "length": 32}}
        options |= {"quantize": {method: {"bits": 3, "group_size": 32, "scale_search": False}, "exclude": []}}
        chosen = recipe.build(options)
        quantized = pipeline.quantize(source, chosen, shelf)
        assert [row["layer"] for row in quantized.facts["layers"]] == ["mix", "wa", "wb", "wc"]
        assert quantized.facts["fallbacks"] == []
        packed = pipeline.package(source, quantized, chosen, shelf)
        lost[method] = np.square(open_session(packed.model, "served").run(None, {"input_ids": ids})[0] - exact).mean()
    assert lost["gptq"] < 0.8 * lost["rtn"]


def test_a_budget_is_met_on_an_encoder_and_perplexity_is_refused(encoder: Path, tmp_path: Path) -> None:
    def quantized(budget: dict[str, float]) -> float:
        quantize = {"rtn": {"group_size": 32}, "exclude": [], "budget": budget}
        options = {"model": str(encoder), "calibration": {"samples": 8, "length": 32}, "quantize": quantize}
        made = pipeline.quantize(sources.open_input(encoder), recipe.build(options), Shelf(tmp_path / "stages"))
        return float(made.facts["budget"]["bits_per_weight"])

    assert 5 < quantized({"bits": 6.0}) <= 6
    with pytest.raises(RequestError, match=r"the graph is no decoder; name budget\.bits instead"):
        quantized({"max_ppl_increase": 0.1})
