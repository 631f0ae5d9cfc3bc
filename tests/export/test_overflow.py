"""A model that clamps where float16 overflows is traced with its clamp."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from compressor.export.overflow import Overflowing
from compressor.export.tracing import Call, Input, trace
from compressor.graph.session import open_session

LARGEST = 65504 - 1000  # as transformers bounds it


class Clamping(nn.Module):
    """Doubles, and clamps where that has overflowed."""

    def __init__(self, question: str) -> None:
        super().__init__()
        self.question = question

    def forward(self, *tensors: Tensor) -> tuple[Tensor]:
        doubled = tensors[0] * 2
        overflowed = not torch.isfinite(doubled).all() if self.question == "all" else torch.isinf(doubled).any()
        return (torch.clamp(doubled, -LARGEST, LARGEST) if overflowed else doubled,)


@pytest.mark.parametrize("question", ["all", "any"])
@pytest.mark.parametrize("largest", [100.0, 60000.0])
def test_the_graph_says_what_torch_says_overflow_or_not(question: str, largest: float) -> None:
    x = torch.linspace(-largest, largest, 8).half().reshape(2, 4)
    call = Call(
        "clamping",
        Clamping(question).eval(),
        {"x": Input(("batch_size", 4), lambda _: x)},
        ("y",),
        {"batch_size": 2},
        {},
    )
    found = open_session(trace(call, 21), "exact").run(None, {"x": x.numpy()})[0]
    np.testing.assert_array_equal(found, Clamping(question)(x)[0].numpy())


def test_what_is_asked_of_other_values_is_answered_as_ever() -> None:
    half, single = torch.ones(2).half(), torch.ones(2)
    with Overflowing():
        assert bool(half.all())
        assert not bool(torch.isfinite(half).all())
        assert bool(torch.isinf(half).any())
        assert bool(torch.isfinite(single).all())
        assert not bool(torch.isinf(single).any())
