"""Trained residual networks that nobody here made: every BatchNormalization goes, and no image changes its class."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx_ir as ir
import pytest
import torch

from compressor import catalog
from passes import run_passes
from tests import laws

pytestmark = pytest.mark.eval

LOADER = Path(__file__).parents[3] / "shared" / "eval" / "cnn" / "load_resnet_cifar.py"
BATCH = 250


def loader() -> ModuleType:
    if not LOADER.is_file():
        pytest.skip(f"{LOADER} is absent")
    spec = importlib.util.spec_from_file_location("load_resnet_cifar", LOADER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def exported(network: torch.nn.Module) -> ir.Model:
    """With its BatchNormalizations: the exporter's own optimizer is off."""
    batch = torch.export.Dim("batch", min=1, max=4096)
    program = torch.onnx.export(
        network,
        (torch.zeros(2, 3, 32, 32),),
        dynamo=True,
        optimize=False,
        opset_version=18,
        dynamic_shapes=({0: batch},),
        verbose=False,
    )
    assert program is not None
    return program.model


def classes(model: ir.Model, images: np.ndarray) -> np.ndarray:
    session = laws.open_session(model)
    (name,) = (value.name for value in session.get_inputs())
    parts = [session.run(None, {name: images[at : at + BATCH]})[0] for at in range(0, len(images), BATCH)]
    return np.concatenate(parts).argmax(axis=1)


@pytest.mark.parametrize("depth", [20, 44])
def test_all_batchnorms_go_and_top_1_stays(depth: int) -> None:
    module = loader()
    model = exported(module.load(depth))
    passes = [catalog.resolve(catalog.PASSES[name].where)() for name in catalog.passes_for("generic")]
    result, outcomes = run_passes(model, passes)
    left = [node.op_type for node in result.graph.all_nodes()]
    assert not [outcome.rolled_back for outcome in outcomes if outcome.rolled_back]
    assert left.count("BatchNormalization") == 0
    assert left.count("Conv") == depth - 1
    jpeg = np.load(LOADER.with_name("cifar10_jpeg_test2000_train520.npz"))["x_test"]
    for images in (module.eran()[0], jpeg):
        pixels = module.prep(images).numpy()
        np.testing.assert_array_equal(classes(model, pixels), classes(result, pixels))
