"""Small random models of transformers, exported and optimized for each target: the fused operators that must be there.

Two layers each. What the passes did was compared with the exported graph on probes, at two sizes, and nothing of it was
rolled back; that the graphs are right by torch's own word is in docs/coverage.md.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from compressor import catalog, pipeline, sources
from compressor.artifact import Artifact
from compressor.graph.session import load_model
from compressor.recipe import recipe
from compressor.shelf import Shelf
from tests import architectures

# Of all graphs of a model together: an encoder and a decoder are two. For cuda; the CPU gets each norm by itself.
DECODER = {"GroupQueryAttention": 2, "SkipSimplifiedLayerNormalization": 4, "RotaryEmbedding": 4}
GATED = {"RMSNormalization": 1, "QuickGelu": 2}  # SiLU is a quick GELU of factor 1
FUSED = {
    "bert": {"MultiHeadAttention": 2, "SkipLayerNormalization": 4, "LayerNormalization": 2, "BiasGelu": 3},
    "gpt2": {"GroupQueryAttention": 2, "SkipLayerNormalization": 5, "FastGelu": 2},
    "llama": DECODER | GATED,
    "vit": {"MultiHeadAttention": 2, "SkipLayerNormalization": 4, "LayerNormalization": 1, "BiasGelu": 2},
    "resnet": {},
    "whisper": {
        "MultiHeadAttention": 6,
        "SkipLayerNormalization": 11,
        "LayerNormalization": 1,
        "Gelu": 2,
        "BiasGelu": 4,
    },
    "t5": {"MultiHeadAttention": 6, "SkipSimplifiedLayerNormalization": 10, "RMSNormalization": 2},
    "qwen3": DECODER | GATED | {"RMSNormalization": 5},
    "gemma3_text": DECODER | {"RMSNormalization": 9, "Gelu": 2},
    "mixtral": DECODER | GATED,
}
# The same from opset 23 on, in operators of the standard alone.
STANDARD = {
    "bert": {"Attention": 2, "LayerNormalization": 6, "Gelu": 3},
    "gpt2": {"Attention": 2, "LayerNormalization": 5, "Gelu": 2},
    "llama": {"Attention": 2, "RMSNormalization": 5, "RotaryEmbedding": 4},
    "vit": {"Attention": 2, "LayerNormalization": 5, "Gelu": 2},
    "whisper": {"Attention": 6, "LayerNormalization": 12, "Gelu": 6},
    "t5": {"Attention": 6, "RMSNormalization": 12},
    "qwen3": {"Attention": 2, "RMSNormalization": 9, "RotaryEmbedding": 4},
    "mixtral": {"Attention": 2, "RMSNormalization": 5, "RotaryEmbedding": 4},
}
ALWAYS = ("bert", "gpt2", "llama")
MAY_BE_FUSED = {name for row in (*FUSED.values(), *STANDARD.values()) for name in row}
# Folded, removed, part of Gelu, named, cut out, split.
GONE = {"BatchNormalization", "Dropout", "Erf", "CastLike", "GatherND", "SplitToSequence", "SequenceAt"}
CONTRIB = "com.microsoft"


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in ALWAYS else pytest.mark.slow) for name in FUSED]
)
def test_what_is_fused_for_each_target(name: str, tmp_path: Path) -> None:
    folder, shelf = architectures.write(name, tmp_path / "checkpoint"), Shelf(tmp_path / "stages")
    exported = pipeline.export(sources.find(str(folder)), recipe.build({"model": str(folder)}), shelf)
    for target in catalog.TARGETS:
        made = pipeline.optimize(exported, recipe.build({"model": str(folder), "target": target}), shelf)
        assert not made.facts["fallbacks"], target
        found = operators(made)
        if target in ("cpu", "cuda"):
            wanted = FUSED[name] if target == "cuda" else norms_apart(FUSED[name])
            assert {one: found[one] for one in found if one in MAY_BE_FUSED} == wanted
            assert GONE.isdisjoint(found)
        else:
            assert CONTRIB not in domains(made)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in ALWAYS else pytest.mark.slow) for name in STANDARD]
)
def test_what_is_fused_in_the_standard(name: str, tmp_path: Path) -> None:
    folder, shelf = architectures.write(name, tmp_path / "checkpoint"), Shelf(tmp_path / "stages")
    wanted = recipe.build({"model": str(folder), "export": {"opset": 23}})
    made = pipeline.optimize(pipeline.export(sources.find(str(folder)), wanted, shelf), wanted, shelf)
    assert not made.facts["fallbacks"]
    found = operators(made)
    assert {one: found[one] for one in found if one in MAY_BE_FUSED} == STANDARD[name]
    assert (GONE | {"Softmax"}).isdisjoint(found) or name == "mixtral"  # whose experts are chosen by one
    assert CONTRIB not in domains(made)


def norms_apart(fused: dict[str, int]) -> dict[str, int]:
    """A norm beside its sum, where the CPU is faster."""
    names = {"SkipLayerNormalization": "LayerNormalization", "SkipSimplifiedLayerNormalization": "RMSNormalization"}
    found = Counter[str]()
    for operator, count in fused.items():
        found[names.get(operator, operator)] += count
    return dict(found)


def operators(made: Artifact) -> Counter[str]:
    return Counter(node.op_type for path in made.models for node in load_model(path).graph.all_nodes())


def domains(made: Artifact) -> set[str]:
    return {node.domain for path in made.models for node in load_model(path).graph.all_nodes()}
