"""The CIFAR-10 ResNets of ../shared/eval as a factory gives them, and their images as they were measured on."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import nn

FOLDER = Path(__file__).parents[2] / "shared" / "eval" / "cnn"


def loader() -> ModuleType:
    """The loader that lies beside the weights; it is not ours and is not copied."""
    spec = importlib.util.spec_from_file_location("load_resnet_cifar", FOLDER / "load_resnet_cifar.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def resnet20() -> tuple[nn.Module, torch.Tensor]:
    return loader().load(20), torch.zeros(1, 3, 32, 32)


def resnet44() -> tuple[nn.Module, torch.Tensor]:
    return loader().load(44), torch.zeros(1, 3, 32, 32)


def images() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Name -> images [n, 3, 32, 32] and classes [n]."""
    jpeg = np.load(FOLDER / "cifar10_jpeg_test2000_train520.npz")
    sets = {"lossless": loader().eran(), "jpeg": (jpeg["x_test"], jpeg["y_test"])}
    return {name: (loader().prep(pixels).numpy(), classes) for name, (pixels, classes) in sets.items()}
