"""A graph that is no decoder: text through its tokenizer, each weight solved on what reaches it."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from compressor import artifact, builtin, pipeline, sources
from compressor.artifact import Artifact
from compressor.errors import RequestError
from compressor.graph.session import load_model, open_session, save_model
from compressor.progress import T
from compressor.recipe import recipe
from compressor.shelf import Shelf
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


@pytest.mark.parametrize(
    ("quantize", "package", "bits"),
    [
        ({"rtn": {"group_size": 32}}, {}, 4 + 32 / 32),  # symmetric: no zero point is stored
        ({"rtn": {"group_size": 32, "scheme": "zero_point"}}, {}, 4 + (32 + 4) / 32),
        ({"rtn": {"bits": 3, "group_size": 32, "scheme": "absmax"}}, {"format": "qdq"}, 4 + 32 / 32),  # in cells of 4
        ({"dynamic": {}}, {}, 8 + 32 / WIDTH),
        ({"nf4": {}}, {}, 4 + 32 / 64),
    ],
)
def test_the_bits_of_a_weight_are_those_that_lie_on_the_disk(
    quantize: dict[str, object], package: dict[str, str], bits: float, encoder: Path, tmp_path: Path
) -> None:
    source, shelf = sources.open_input(encoder), Shelf(tmp_path / "stages")
    options = {"model": str(encoder), "target": "cpu", "quantize": quantize | {"exclude": ["wc"]}, "package": package}
    chosen = recipe.build(options)
    quantized = pipeline.quantize(source, chosen, shelf)
    made = pipeline.package(source, quantized, chosen, shelf)
    held = load_model(made.model).graph.initializers
    for row in pipeline.layers(quantized, made):
        parts = [one.const_value.nbytes for name, one in held.items() if name.startswith(f"{row['layer']}.")]
        assert row["bits_per_weight"] == round(8 * sum(parts) / (row["in"] * row["out"]), 3)
        assert row["bits_per_weight"] == pytest.approx(bits, rel=0.03)  # 96 rows are 1.5 blocks of 64
    assert quantized.facts["left_alone"] == {"wc": "excluded by 'wc'"}
    assert quantized.facts["left_bytes"] == {"wc": 8 * WIDTH * 4}


def test_a_budget_is_met_on_an_encoder_and_perplexity_is_refused(encoder: Path, tmp_path: Path) -> None:
    def quantized(budget: dict[str, float]) -> float:
        quantize = {"rtn": {"group_size": 32}, "exclude": [], "budget": budget}
        options = {"model": str(encoder), "calibration": {"samples": 8, "length": 32}, "quantize": quantize}
        made = pipeline.quantize(sources.open_input(encoder), recipe.build(options), Shelf(tmp_path / "stages"))
        return float(made.facts["budget"]["bits_per_weight"])

    assert 5 < quantized({"bits": 6.0}) <= 6
    with pytest.raises(RequestError, match=r"the graph is no decoder; name budget\.bits instead"):
        quantized({"max_ppl_increase": 0.1})


@pytest.mark.parametrize("method", ["rtn", "nf4", "fp4", "dynamic"])
def test_progress_goes_under_the_name_of_the_method(method: str, encoder: Path, tmp_path: Path) -> None:
    said = []

    def track(iterable: Iterable[T], text: str) -> Iterable[T]:
        said.append(text)
        return iterable

    chosen = recipe.build({"model": str(encoder), "target": "generic", "quantize": {method: {}}})
    pipeline.quantize(sources.open_input(encoder), chosen, Shelf(tmp_path / "stages"), track)
    assert said == [method]


def test_scales_of_a_graph_of_half_precision_are_fitted_as_it_holds_them(tmp_path: Path) -> None:
    """At 8 bits the scale of a weight of 1e-6 would be less than any float16 above 0, and all of it be gone."""
    text = "(float16[N,64] x) => (float16[N,64] y) { y = MatMul(x, w) }"
    weight = (graphs.normal(64, 64) * 1e-6).astype(np.float16)
    save_model(graphs.build(text, opset=21, w=weight), tmp_path / "a.onnx")
    chosen = recipe.build({"model": "a.onnx", "target": "cpu", "quantize": {"rtn": {"bits": 8}}})
    source, shelf = sources.open_input(tmp_path / "a.onnx"), Shelf(tmp_path / "stages")
    quantized = pipeline.quantize(source, chosen, shelf)
    made = pipeline.package(source, quantized, chosen, shelf)
    (row,) = quantized.facts["layers"]
    eye = np.eye(64, dtype=np.float16)
    found, expected = (open_session(path, "exact").run(None, {"x": eye})[0] for path in (made.model, source.model))
    error = np.square((found - expected).astype(float)).sum() / np.square(expected.astype(float)).sum()
    assert error == pytest.approx(row["weight_error"], rel=0.01)
    assert error < 0.01


def test_a_weight_in_a_constant_node_is_rounded(tmp_path: Path) -> None:
    values = ", ".join(f"{one}.5" for one in range(32))
    text = f"w = Constant<value = float[4,8] {{{values}}}>()  y = MatMul(x, w)"
    text = f"(float[N,4] x) => (float[N,8] y) {{ {text} }}"
    save_model(graphs.build(text, opset=21), tmp_path / "a.onnx")
    chosen = recipe.build({"model": "a.onnx", "target": "cpu", "quantize": {"rtn": {"bits": 8}}})
    made = pipeline.quantize(sources.open_input(tmp_path / "a.onnx"), chosen, Shelf(tmp_path / "stages"))
    assert [row["layer"] for row in made.facts["layers"]] == ["w"]


def test_what_one_target_leaves_float_is_rounded_for_another(tmp_path: Path) -> None:
    text = """(float[N,8,4,4] x) => (float[N,4] y) {
        h = Conv(x, k)  p = ReduceMean<keepdims = 0>(h, axes)  y = MatMul(p, w)
    }"""
    weights = {"k": graphs.normal(8, 8, 3, 3), "w": graphs.normal(8, 4), "axes": np.array([2, 3])}
    save_model(graphs.build(text, opset=21, **weights), tmp_path / "a.onnx")
    source, shelf = sources.open_input(tmp_path / "a.onnx"), Shelf(tmp_path / "stages")
    rounded = {}
    for target in ("tensorrt", "cpu"):
        method = {"rtn": {"bits": 8, "group_size": -1, "scheme": "absmax"}}
        chosen = recipe.build({"model": "a.onnx", "target": target, "quantize": method})
        quantized = pipeline.quantize(source, chosen, shelf)
        pipeline.package(source, quantized, chosen, shelf)
        rounded[target] = [row["layer"] for row in quantized.facts["layers"]]
    assert rounded == {"tensorrt": ["w"], "cpu": ["k", "w"]}


def pair(folder: Path, words: str) -> Artifact:
    """An encoder of sound and a decoder."""
    sound, weight = "(float[N,64] x) => (float[N,64] y) { y = MatMul(x, w) }", graphs.normal(WIDTH, WIDTH)
    table = {"table": graphs.normal(VOCABULARY, WIDTH)} if "table" in words else {}
    made = {"encoder_model.onnx": graphs.build(sound, opset=21, w=weight)}
    made["decoder_model.onnx"] = graphs.build(words, opset=21, w=weight, **table)
    with Shelf(folder, exact=True).draft("export", folder.name, {}, {}) as draft:
        for name, model in made.items():
            save_model(model, draft.folder / name)
        draft.facts["models"] = list(made)
    return artifact.open_artifact(folder)


def test_one_graph_of_a_pair_has_to_have_a_table(tmp_path: Path) -> None:
    quantize = {"rtn": {"group_size": 32}, "embeddings": 8}
    chosen, shelf = recipe.build({"model": "x", "target": "cpu", "quantize": quantize}), Shelf(tmp_path / "stages")
    given = pair(tmp_path / "pair", "(int64[N] ids) => (float[N,64] y) { e = Gather(table, ids)  y = MatMul(e, w) }")
    quantized = pipeline.quantize(given, chosen, shelf)
    assert [(row["graph"], row["layer"]) for row in quantized.facts["layers"]] == [
        ("encoder_model", "w"),
        ("decoder_model", "w"),
        ("decoder_model", "table"),
    ]
    packed = pipeline.package(given, quantized, chosen, shelf)
    kinds = [{node.op_type for node in load_model(path).graph} for path in packed.models]
    assert kinds == [{"MatMulNBits"}, {"MatMulNBits", "Reshape", "GatherBlockQuantized"}]
    without = pair(tmp_path / "without", "(float[N,64] x) => (float[N,64] y) { y = MatMul(x, w) }")
    with pytest.raises(RequestError, match=r"without: quantize\.embeddings: no Gather of a constant matrix of 16"):
        pipeline.quantize(without, chosen, shelf)
