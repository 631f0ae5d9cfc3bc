"""Factories as users write them, for `torch:tests.factories:cnn`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Cnn(nn.Module):
    """Convolution, BatchNorm, Dropout: what differs between training and use. Two inputs, one of them by name."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.dropout, self.linear = nn.Dropout(0.5), nn.Linear(4, 5)
        self.norm.running_mean.normal_()

    def forward(self, image: Tensor, scale: Tensor) -> dict[str, Tensor]:
        seen = torch.relu(self.norm(self.convolution(image))).mean((2, 3))
        return {"logits": self.linear(self.dropout(seen)) * scale}


class Refused(nn.Module):
    """What no graph can say: a sort of strings would do as well."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.eigvalsh(x @ x.mT)


def cnn() -> tuple[nn.Module, dict[str, Tensor]]:
    return Cnn(), {"image": torch.randn(1, 3, 8, 8), "scale": torch.randn(1, 1)}


def cnn_of_any_size() -> tuple[Any, ...]:
    axes = {"image": {0: "batch_size", 2: "height", 3: "width"}, "scale": {0: "batch_size"}}
    return Cnn(), (torch.randn(1, 3, 8, 8), torch.randn(1, 1)), axes


def without_inputs() -> nn.Module:
    return Cnn()


def failing() -> None:
    raise ValueError("no weights\nhere")


def refused() -> tuple[nn.Module, Tensor]:
    return Refused(), torch.randn(2, 4, 4)
