"""A decoder without a cache: whole texts in, logits out, right for padded rows, and a graph as any other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from compressor import pipeline, sources
from compressor.artifact import Artifact
from compressor.errors import LimitMissedError
from compressor.export import causal_lm, decoder_cases
from compressor.graph.decoder import Decoder
from compressor.graph.session import load_model, open_session, save_model
from compressor.recipe import recipe
from compressor.shelf import Shelf
from tests import architectures, decoders

ARCHITECTURES = {  # whether the graph reads positions
    "llama": True,
    "gemma2": True,
    "gpt2": True,
    "bloom": False,
}
CLOSE = {"rtol": 0, "atol": 5e-5}  # as tests/export/test_causal_lm.py has it


@pytest.fixture(scope="module", params=ARCHITECTURES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def checkpoint(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return architectures.write(name, tmp_path_factory.mktemp(name) / "checkpoint")


@pytest.fixture(scope="module")
def made(checkpoint: Path) -> Artifact:
    return export(checkpoint, "text-generation")


def export(checkpoint: Path, task: str | None = None) -> Artifact:
    request = recipe.build({"model": str(checkpoint), "export": {"task": task} if task else {}})
    return pipeline.export(sources.find(str(checkpoint)), request, Shelf(checkpoint.parent / "stages"))


def test_the_interface_has_no_cache(made: Artifact, name: str) -> None:
    graph = load_model(made.model).graph
    positions = ["position_ids"] if ARCHITECTURES[name] else []
    assert [value.name for value in graph.inputs] == ["input_ids", "attention_mask", *positions]
    assert [value.name for value in graph.outputs] == ["logits"]
    assert [str(size) for size in graph.inputs[1].shape or ()] == ["batch_size", "sequence_length"]
    assert made.facts["task"] == "text-generation"
    assert Decoder.of(load_model(made.model)) is None
    assert not (made.directory / "genai_config.json").exists()


def test_every_row_is_read_as_if_alone(made: Artifact, checkpoint: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint).eval()
    ids = decoders.tokens(3, 13)
    mask = np.ones_like(ids)
    mask[0, :5], mask[2, -4:] = 0, 0
    session = open_session(made.model, "exact")
    every = {"input_ids": ids, "attention_mask": mask, "position_ids": np.maximum(mask.cumsum(1) - 1, 0)}
    logits = session.run(["logits"], {one.name: every[one.name] for one in session.get_inputs()})[0]
    for row, real in enumerate(mask.astype(bool)):
        with torch.no_grad():
            alone = model(input_ids=torch.from_numpy(ids[row][real])[None]).logits[0].numpy()
        np.testing.assert_allclose(logits[row][real], alone, **CLOSE)


def test_it_is_optimized_and_measured_as_any_graph(made: Artifact, checkpoint: Path) -> None:
    request = recipe.build({"model": str(checkpoint), "target": "cpu"})
    optimized = pipeline.optimize(made, request, Shelf(checkpoint.parent / "stages"))
    assert optimized.facts["fallbacks"] == []
    assert optimized.facts["nodes"] < made.facts["nodes"]
    assert pipeline.validate(optimized, made, request).verdict(strict=True) == "passed"


def test_a_decoder_that_asks_for_nothing_has_a_cache(tmp_path: Path) -> None:
    asked = export(architectures.write("llama", tmp_path / "checkpoint"), "text-generation-with-past")
    assert asked.facts["task"] == export(tmp_path / "checkpoint").facts["task"] == "text-generation-with-past"
    assert Decoder.of(load_model(asked.model)) is not None


def test_a_wrong_graph_is_refused_and_the_module_named(tmp_path: Path) -> None:
    origin = causal_lm.load(architectures.write("opt", tmp_path / "checkpoint"), 21)
    graph = causal_lm.export(origin, 21, with_past=False)
    spoiled = next(node for node in graph.graph if node.op_type == "Relu" and "layers.1" in str(node.name))
    spoiled.op_type = "Abs"
    save_model(graph, tmp_path / "model.onnx")
    with pytest.raises(LimitMissedError, match=r"case 'prefill'.*departs is model\.decoder\.layers\.1"):
        causal_lm.prove(origin, tmp_path / "model.onnx")


def test_all_that_needs_no_cache_is_tried() -> None:
    ids = decoder_cases.texts(9)
    logits = np.zeros((*ids.shape, 9), np.float32)
    made = decoder_cases.reading(lambda ids, mask: {"input_ids": ids, "attention_mask": mask}, ids, logits)
    assert [case.name for case in made] == ["prefill", "prefill of 3", "padded"]
