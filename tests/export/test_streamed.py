"""Encoders and pairs that are stored in another type than is wanted: no weight is held, and none is another."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from compressor import estimate, pipeline, sources
from compressor.artifact import Artifact
from compressor.export import checkpoint, tasks
from compressor.graph.session import load_model
from compressor.recipe import recipe
from compressor.shelf import Shelf
from tests import architectures

# Buffers in the checkpoint and buffers that are computed, tied weights, attention that reads its children's weights.
NAMES = {"bert": "float32", "t5": "float16", "regnet": "float32", "siglip": "bfloat16", "marian": "float32"}


@pytest.fixture(autouse=True)
def every_model_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "HELD_BELOW_BYTES", 0)


def write(name: str, folder: Path) -> Path:
    """A checkpoint in bfloat16."""
    row = architectures.ROWS[name]
    model_class = getattr(transformers, row.model)
    torch.manual_seed(0)
    model_class(model_class.config_class(**row.sizes)).bfloat16().save_pretrained(folder)
    return folder


def export(folder: Path, dtype: str) -> Artifact:
    request = recipe.build({"model": str(folder), "export": {"dtype": dtype}})
    return pipeline.export(sources.find(str(folder)), request, Shelf(folder.parent / "made", exact=True))


@pytest.mark.parametrize("name", NAMES)
def test_a_graph_has_the_weights_that_transformers_loads(name: str, tmp_path: Path) -> None:
    made = export(write(name, tmp_path / "checkpoint"), NAMES[name])  # proven on the way
    assert made.facts["fallbacks"] == []
    model_class = getattr(transformers, architectures.ROWS[name].model)
    loaded = model_class.from_pretrained(tmp_path / "checkpoint", dtype=getattr(torch, NAMES[name])).state_dict()
    seen = 0
    for path in made.models:
        for weight, value in load_model(path).graph.initializers.items():
            if weight in loaded and value.const_value is not None:
                found = value.const_value.numpy().astype(np.float32)
                np.testing.assert_array_equal(found, loaded[weight].float().numpy(), err_msg=weight)
                seen += 1
    assert seen > 20


def test_what_is_traced_was_never_written_to_and_torch_maps_the_rest(tmp_path: Path) -> None:
    folder = write("bert", tmp_path)
    task = tasks.find(sources.whole_config(folder))
    found = checkpoint.load(folder, task, recipe.Export(dtype="float32"))
    assert found.answering is not None
    assert {one.dtype for one in found.model.parameters()} == {torch.float32}
    assert {one.dtype for one in found.answering.parameters()} == {torch.bfloat16}
    assert found.origins.keys() == found.model.state_dict().keys()


def test_a_checkpoint_that_is_stored_as_it_is_wanted_is_traced_as_it_is_mapped(tmp_path: Path) -> None:
    folder = write("bert", tmp_path)
    task = tasks.find(sources.whole_config(folder))
    found = checkpoint.load(folder, task, recipe.Export(dtype="bfloat16"))
    assert (found.answering, found.facts) == (None, {})


def test_what_has_to_be_held_is_said(tmp_path: Path) -> None:
    folder = write("bert", tmp_path / "pickled")
    task, wanted = tasks.find(sources.whole_config(folder)), recipe.Export(dtype="float32")
    torch.save(transformers.BertForMaskedLM.from_pretrained(folder).state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    held = checkpoint.load(folder, task, wanted)
    assert held.facts["fallbacks"] == ["export: the whole checkpoint was held in memory, for its weights are pickled"]
