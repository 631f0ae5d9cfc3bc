"""A small encoder, exported as users would, through every method there is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from compressor import pipeline, sources
from compressor.artifact import Artifact
from compressor.data import samples
from compressor.graph.session import load_model
from compressor.recipe import recipe
from compressor.recipe.limits import Agreement
from compressor.shelf import Shelf
from compressor.validate import outputs
from compressor.validate.subject import Subject
from tests import architectures

ROWS, LENGTH = 24, 16
# Output cosine of the worst row, at least: two layers of random weights, ten times as wide as training starts with.
METHODS: dict[str, tuple[dict[str, Any], float]] = {
    "dynamic": ({"dynamic": {}}, 0.99),
    "static": ({"static_qdq": {}}, 0.98),
    "static, percentile": ({"static_qdq": {"ranges": "percentile"}}, 0.98),
    "rounded to 8 bits": ({"rtn": {"bits": 8}}, 0.999),
    "gptq at 4 bits": ({"gptq": {"bits": 4, "group_size": 32}}, 0.9),
    "llm_int8": ({"llm_int8": {}}, 0.99),
    "nf4": ({"nf4": {}}, 0.85),
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("encoder")
    checkpoint = architectures.write("bert", folder / "checkpoint")
    asked = recipe.build({"model": str(checkpoint)})
    return pipeline.export(sources.find(str(checkpoint)), asked, Shelf(folder / "made", exact=True))


@pytest.fixture(scope="module")
def data(exported: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of tokens, a third of them padded, by the names of the graph's inputs; labels that mean nothing."""
    rng, path = np.random.default_rng(0), tmp_path_factory.mktemp("data") / "rows.npz"
    mask = np.ones((ROWS, LENGTH), np.int64)
    mask[::3, LENGTH // 2 :] = 0
    known = {"input_ids": rng.integers(2, 90, mask.shape), "attention_mask": mask, "token_type_ids": 0 * mask}
    names = [value.name for value in onnx.load(exported.model, load_external_data=False).graph.input]
    np.savez(path, **{name: known[name] for name in names})
    return path


@pytest.mark.parametrize("name", METHODS)
def test_an_encoder_stays_itself(name: str, exported: Artifact, data: Path, tmp_path: Path) -> None:
    quantize, cosine = METHODS[name]
    calibration = {"source": str(data), "samples": ROWS}
    options = recipe.build({"model": "x", "target": "cpu", "calibration": calibration, "quantize": quantize})
    quantized = pipeline.quantize(exported, options, shelf := Shelf(tmp_path))
    packaged = pipeline.package(exported, quantized, options, shelf)
    calls = samples.calibrating(options.calibration, load_model(exported.model), Path(), options.images).batches
    ours, theirs = Subject(packaged.model), Subject(exported.model, is_reference=True)
    found = outputs.measure(ours, theirs, calls, Agreement(min_cosine=cosine))
    assert all(one.passed for one in found), [one.row() for one in found]
    layers = [row["layer"] for row in quantized.facts["layers"]]
    # q, k, v, o, up, down of two layers and the head's own; static pairs take the head's tied matrix as well.
    assert len(layers) == 2 * 6 + 1 + name.startswith("static")
    assert all(one.endswith(".weight") for one in layers), layers
