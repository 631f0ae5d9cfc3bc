"""The recipes for devices run to their prediction on a CPU: small random models, the recipes' own limits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
import transformers

from compressor import pipeline
from compressor.artifact import Artifact
from compressor.graph.session import load_model
from compressor.providers import libraries
from compressor.providers.kernels import CUDA
from compressor.recipe import recipe
from compressor.report.report import Report
from tests.conftest import ROOT

pytestmark = pytest.mark.skipif(libraries.obstacle(CUDA) is None, reason="a GPU is at hand: `make test-gpu` covers it")


def resnet(folder: Path) -> Path:
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    torch.manual_seed(0)
    transformers.ResNetForImageClassification(config).eval().save_pretrained(folder)
    pixels = np.random.default_rng(0).standard_normal((8, 3, 32, 32), np.float32)
    np.savez(folder / "pixels.npz", pixel_values=pixels)
    return folder


def bert(folder: Path) -> Path:
    sizes: dict[str, Any] = {"vocab_size": 99, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = transformers.BertConfig(**sizes, intermediate_size=128, initializer_range=0.2)
    torch.manual_seed(0)
    transformers.BertForMaskedLM(config).eval().save_pretrained(folder)
    return folder


def made(name: str, output: Path, *settings: str) -> tuple[Artifact, Report]:
    return pipeline.run(recipe.load(ROOT / "recipes" / f"{name}.yaml", settings), output)


def assert_predicted(report: Report, target: str) -> dict[str, float]:
    """Every limit is met, and the report says that the device itself was not asked."""
    assert report.verdict(strict=False) == "passed"
    assert report.verdict(strict=True) == "fell back 1 times"
    assert report.fallbacks[0].startswith(f"validated on the CPU, placement on {target} predicted: ")
    return {one.name: one.value for one in report.measurements}


def test_a_convolutional_network_is_wholly_tensorrts(tmp_path: Path) -> None:
    model = resnet(tmp_path / "model")
    source = (f"model={model}", f"calibration.source={model / 'pixels.npz'}", "calibration.samples=8")
    _, report = made("cnn-int8-tensorrt", tmp_path / "out", *source)
    values = assert_predicted(report, "tensorrt")
    assert (
        values["share of nodes on tensorrt"],
        values["share of FLOPs on tensorrt"],
        values["copies between devices"],
    ) == (1, 1, 0)


def test_an_encoder_is_float16_on_cuda(tmp_path: Path) -> None:
    artifact, report = made("encoder-fp16-cuda", tmp_path / "out", f"model={bert(tmp_path / 'model')}")
    values = assert_predicted(report, "cuda")
    assert values["share of FLOPs on cuda"] > 0.99
    weights = [value.const_value for value in load_model(artifact.model).graph.initializers.values()]
    floats = {one.dtype for one in weights if one is not None and one.dtype.is_floating_point() and one.size > 1}
    assert floats == {ir.DataType.FLOAT16}


def test_a_decoder_has_packed_weights_and_fused_attention_on_cuda(tmp_path: Path) -> None:
    small = ("calibration.samples=4", "calibration.length=32", "validate.perplexity.tokens=512", "validate.speed=null")
    artifact, report = made("llm-int4-cuda", tmp_path / "out", *small)
    assert assert_predicted(report, "cuda")["share of FLOPs on cuda"] > 0.99
    placed = {row["operator"]: row["outcome"] for row in report.placement[0]["elsewhere"]}
    assert "falls back" not in placed.values()
    operators = [node.op_type for node in load_model(artifact.model).graph]
    assert "GroupQueryAttention" in operators
    scales = load_model(artifact.model).graph.initializers
    assert {value.dtype for name, value in scales.items() if name.endswith(".scales")} == {ir.DataType.FLOAT16}
