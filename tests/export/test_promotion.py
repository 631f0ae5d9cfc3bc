"""A number less a tensor of whole numbers has a form in ONNX."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from compressor.export import tracing
from compressor.export.flat import Flat
from compressor.export.tracing import Call, Input
from compressor.graph.session import open_session


class Difference(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 1.5 - x


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.float32])
def test_a_number_less_a_tensor(dtype: torch.dtype) -> None:
    module = Flat(Difference().eval(), ("x",))
    sample = Input(("batch_size", 3), lambda shape: torch.arange(shape[0] * 3).reshape(shape).to(dtype))
    call = Call("difference", module, {"x": sample}, ("output",), {"batch_size": 2}, {})
    x = call.sample({"batch_size": 5})["x"].numpy()
    found = open_session(tracing.trace(call, 21), "exact").run(None, {"x": x})[0]
    np.testing.assert_array_equal(found, (1.5 - x).astype(np.float32))
