"""The graph of two layers a kind, copied, is the graph of the whole trace: name for name, byte for byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
import transformers

from compressor.errors import LimitMissedError
from compressor.export import causal_lm, layers
from compressor.export.unloaded import Unloaded
from compressor.graph.session import save_model
from tests.decoders import GATED, SIZES

HEADS = {**GATED, "head_dim": 16}
# Name -> configuration class, its options, and the layers that are traced.
FAMILIES: dict[str, tuple[str, dict[str, Any], int]] = {
    "llama": ("LlamaConfig", {**GATED, "num_hidden_layers": 4}, 2),
    "gpt2": ("GPT2Config", {"num_hidden_layers": 3, "n_positions": 64}, 2),
    "qwen3": ("Qwen3Config", {**HEADS, "num_hidden_layers": 3}, 2),
    "gemma2": ("Gemma2Config", {**HEADS, "num_hidden_layers": 6, "sliding_window": 4}, 4),
    "gemma3": ("Gemma3TextConfig", {**HEADS, "num_hidden_layers": 9, "sliding_window_pattern": 3}, 4),
    "mixtral": ("MixtralConfig", {**GATED, "num_hidden_layers": 4, "num_local_experts": 3}, 2),
}
FAST = ("llama", "gpt2")


def slow_beyond_fast() -> list[Any]:
    return [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]


def random_origin(folder: Path, class_name: str, **options: Any) -> Unloaded:
    config = getattr(transformers, class_name)(**SIZES | options)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return causal_lm.load(folder, 21)


def in_words(model: ir.Model) -> str:
    return str(ir.to_proto(model))


@pytest.mark.parametrize("family", slow_beyond_fast())
def test_a_copied_graph_is_the_traced_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str) -> None:
    class_name, options, traced = FAMILIES[family]
    origin = random_origin(tmp_path, class_name, **options)
    copied = causal_lm.export(origin, 21)
    assert origin.facts["traced"] == f"{traced} layers, copied to {options['num_hidden_layers']}"
    monkeypatch.setattr(layers, "shallow", lambda model, _: layers.Whole(model, "asked for"))
    assert in_words(copied) == in_words(causal_lm.export(origin, 21))


INVERSE = {"num_hidden_layers": 3, "scale_attn_by_inverse_layer_idx": True}


def test_a_constant_that_differs_from_layer_to_layer_is_seen_in_the_modules(tmp_path: Path) -> None:
    """GPT-2 may divide the scores of layer n by n + 1."""
    origin = random_origin(tmp_path, "GPT2Config", **INVERSE)
    assert isinstance(layers.shallow(origin.model, origin.build), layers.Whole)


def test_where_no_module_shows_it_the_trace_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "OWN_NUMBER", layers.OWN_NUMBER | {"scaling"})
    origin = random_origin(tmp_path, "GPT2Config", **INVERSE)
    assert isinstance(layers.shallow(origin.model, origin.build), layers.Shallow)
    causal_lm.export(origin, 21)
    assert origin.facts["traced"].startswith("whole: no traced layer is the same as layer 1")


def test_where_no_trace_shows_it_the_proof_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were all layers of Gemma 3 taken for one kind, the third would have a window that it has not."""
    class_name, options, _ = FAMILIES["gemma3"]
    origin = random_origin(tmp_path, class_name, **options | {"num_hidden_layers": 3, "sliding_window": 4})
    monkeypatch.setattr(layers, "kinds_of", lambda model, path: ["one"] * len(model.get_submodule(path)))
    graph = causal_lm.export(origin, 21)
    assert origin.facts["traced"] == "2 layers, copied to 3"
    save_model(graph, tmp_path / "model.onnx")
    with pytest.raises(LimitMissedError, match=r"the first module whose output departs is model\.layers\.2\.self_attn"):
        causal_lm.prove(origin, tmp_path / "model.onnx")


@pytest.mark.parametrize(
    ("class_name", "options", "stands_for"),
    [
        ("LlamaConfig", {**GATED, "num_hidden_layers": 5}, (0, 1, 1, 1, 1)),
        # every third layer sees everything: two of each kind are traced
        ("Gemma3TextConfig", {**HEADS, "num_hidden_layers": 7, "sliding_window_pattern": 3}, (0, 1, 3, 1, 1, 3, 1)),
        # every fourth layer has no positions
        ("SmolLM3Config", {**GATED, "num_hidden_layers": 9}, (0, 1, 1, 3, 1, 1, 1, 3, 1)),
        # the first layers are dense, then come experts
        (
            "Qwen3MoeConfig",
            {**HEADS, "num_hidden_layers": 6, "num_experts": 3, "moe_intermediate_size": 32, "mlp_only_layers": [0]},
            (0, 2, 2, 2, 2, 2),
        ),
    ],
)
def test_layers_stand_for_their_kind(class_name: str, options: dict[str, Any], stands_for: tuple[int, ...]) -> None:
    model = causal_lm.unloaded.build(
        getattr(transformers, class_name)(**SIZES | options), "eager", causal_lm.DTYPES["float32"]
    )
    found = layers.shallow(model, lambda config: causal_lm.unloaded.build(config, "eager", causal_lm.DTYPES["float32"]))
    assert isinstance(found, layers.Shallow), found.reason
    assert found.stands_for == stands_for


def test_few_layers_are_traced_as_they_are(tmp_path: Path) -> None:
    origin = random_origin(tmp_path, "LlamaConfig", **GATED, num_hidden_layers=2)
    found = layers.shallow(origin.model, origin.build)
    assert isinstance(found, layers.Whole)
    assert found.reason == "no kind of layer repeats more than twice"
