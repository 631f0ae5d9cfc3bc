"""Trained image classifiers that nobody here made, on pictures that they were not calibrated on.

Reference figures: ../shared/eval/README.md, on the 2000 JPEG pictures.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import cifar
from tests.conftest import Outcome

pytestmark = [
    pytest.mark.eval,
    pytest.mark.skipif(
        not cifar.FOLDER.is_dir(), reason=f"{cifar.FOLDER} is absent: it lies beside the project, not in it"
    ),
]
ACCURACY = {20: 0.8135, 44: 0.822}
Compress = Callable[..., Outcome]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """520 pictures of the training set to calibrate on, 2000 of the test set with labels, as pixels."""
    folder = tmp_path_factory.mktemp("pictures")
    with np.load(cifar.FOLDER / "cifar10_jpeg_test2000_train520.npz") as held:
        np.savez(folder / "calibration.npz", image=held["x_train"])
        np.savez(folder / "labelled.npz", image=held["x_test"], labels=held["y_test"])
    return folder


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    folder = tmp_path_factory.mktemp("classifiers")

    def export(depth: int) -> Path:
        path = folder / f"resnet{depth}.onnx"
        if not path.exists():
            torch.onnx.export(
                cifar.loader().load(depth), (torch.zeros(2, 3, 32, 32),), str(path), input_names=["image"],
                output_names=["scores"], dynamic_shapes=({0: "batch"},), opset_version=21, verbose=False,
            )  # fmt: skip
        return path

    return export


@pytest.mark.parametrize("depth", [20, 44])
def test_int8_loses_at_most_half_a_point(
    depth: int, data: Path, classifier: Callable[[int], Path], tmp_path: Path, compress: Compress
) -> None:
    """The recipe as it stands, on 520 pictures; its limit of half a point is its own."""
    ended = compress(
        "run", "cnn-int8-static-cpu", "--model", classifier(depth), "-o", tmp_path / "out", "--json",
        f"--set=calibration={json.dumps({'source': str(data / 'calibration.npz'), 'samples': 520})}",
        f"--set=validate.accuracy.source={data / 'labelled.npz'}",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    found = {row["name"]: row for row in ended.json()["measurements"]}
    assert found["accuracy"]["reference"] == pytest.approx(ACCURACY[depth], abs=5e-4)  # one picture of 2000
    assert found["accuracy drop"]["value"] <= 0.005


def test_tensorrts_form_loses_at_most_half_a_point(
    data: Path, classifier: Callable[[int], Path], tmp_path: Path, compress: Compress
) -> None:
    """Symmetric pairs around the products alone; computed by the CPU here, which says nothing of TensorRT's speed."""
    ended = compress(
        "quantize", classifier(20), "-o", tmp_path / "out", "--method", "static_qdq", "--for", "tensorrt",
        f"--set=calibration={json.dumps({'source': str(data / 'calibration.npz'), 'samples': 520})}",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    limits = {"accuracy": {"source": str(data / "labelled.npz"), "max_drop": 0.005}}
    place = tmp_path / "out"
    ended = compress("validate", place, "--against", classifier(20), "--json", f"--set=validate={json.dumps(limits)}")
    assert ended.code == 0, ended.err
