"""Trained networks for images that nobody here made, and the figures of ../shared/eval/README.md."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from compressor import pipeline, sources
from compressor.artifact import Artifact
from compressor.graph.session import load_model, open_session
from compressor.recipe import recipe
from compressor.shelf import Shelf
from tests import cifar

pytestmark = [
    pytest.mark.eval,
    pytest.mark.skipif(not cifar.FOLDER.is_dir(), reason=f"{cifar.FOLDER} is absent: it lies beside the project"),
]

# PyTorch's figures, to their last digit: one image of 2000 is 0.05 %, and a logit's sixth digit moves none of them.
FIGURES = {"resnet20": {"lossless": 0.94, "jpeg": 0.8135}, "resnet44": {"lossless": 0.93, "jpeg": 0.822}}


def export(model: str, place: Path) -> Artifact:
    return pipeline.export(sources.find(model), recipe.build({"model": model}), Shelf(place, exact=True))


def top1(made: Artifact) -> dict[str, float]:
    session = open_session(made.model, "served")
    (name,) = (one.name for one in session.get_inputs())
    found = {}
    for kind, (pixels, classes) in cifar.images().items():
        chunks = np.array_split(pixels, max(1, len(pixels) // 500))
        chosen = np.concatenate([session.run(None, {name: chunk})[0].argmax(1) for chunk in chunks])
        found[kind] = float(np.mean(chosen == classes))
    return found


@pytest.mark.parametrize("name", FIGURES)
def test_a_cifar_resnet_keeps_its_figures_exported_optimized_and_imported(name: str, tmp_path: Path) -> None:
    made = export(f"torch:tests.cifar:{name}", tmp_path / "exported")
    assert top1(made) == FIGURES[name]

    optimized = pipeline.optimize(made, recipe.build({"model": name}), Shelf(tmp_path / "optimized", exact=True))
    operators = [node.op_type for node in load_model(optimized.model).graph]
    assert "BatchNormalization" not in operators
    assert top1(optimized) == FIGURES[name]

    imported = export(str(optimized.model), tmp_path / "imported")
    assert top1(imported) == FIGURES[name]
