"""GPTQ on the kernels of trained ResNets: at 4 bits per channel it keeps what rounding loses."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compressor import pipeline, sources
from compressor.artifact import Artifact
from compressor.graph.session import open_session
from compressor.recipe import recipe
from compressor.shelf import Shelf
from tests.test_eval import EVAL

CNN = EVAL / "cnn"
pytestmark = [
    pytest.mark.eval,
    pytest.mark.skipif(not CNN.is_dir(), reason=f"{CNN} is absent: it lies beside the project, not in it"),
]
CALIBRATED_ON = 256  # of the 520 pictures that are set apart


def logits(made: Artifact, pictures: np.ndarray) -> np.ndarray:
    session = open_session(made.model, "served")
    (name,) = [one.name for one in session.get_inputs()]
    parts = [session.run(None, {name: pictures[at : at + 250]})[0] for at in range(0, len(pictures), 250)]
    return np.concatenate(parts)


@pytest.mark.parametrize("depth", [20, 44])
def test_gptq_on_convolutions_beats_rounding(depth: int, tmp_path: Path) -> None:
    resnet: dict[str, Any] = runpy.run_path(str(CNN / "load_resnet_cifar.py"))
    with np.load(CNN / "cifar10_jpeg_test2000_train520.npz") as held:
        pictures, labels = resnet["prep"](held["x_test"]).numpy(), held["y_test"]
        np.savez(tmp_path / "train.npz", x=held["x_train"])
    file = tmp_path / "resnet.onnx"
    sample, batch = (torch.zeros(2, 3, 32, 32),), torch.export.Dim("batch")
    options = {"opset_version": 21, "external_data": False, "dynamic_shapes": ({0: batch},), "dynamo": True}
    torch.onnx.export(resnet["load"](depth), sample, file, **options)
    shelf, source = Shelf(tmp_path), sources.open_input(file)
    data = {"source": str(tmp_path / "train.npz"), "samples": CALIBRATED_ON}

    def made(method: str) -> Artifact:
        quantize = {method: {"bits": 4, "group_size": -1}, "exclude": []}
        chosen = recipe.build({"model": str(file), "calibration": data, "quantize": quantize})
        optimized = pipeline.optimize(source, chosen, shelf)
        return pipeline.package(optimized, pipeline.quantize(optimized, chosen, shelf), chosen, shelf)

    exact = logits(source, pictures)
    lost = {method: logits(made(method), pictures) - exact for method in ("rtn", "gptq")}
    right = {method: float(((exact + error).argmax(1) == labels).mean()) for method, error in lost.items()}
    # Rounding loses 3 points of accuracy on ResNet-20; GPTQ must lose less than half of what it does to the logits.
    assert np.square(lost["gptq"]).mean() < 0.5 * np.square(lost["rtn"]).mean()
    assert right["gptq"] > right["rtn"]
