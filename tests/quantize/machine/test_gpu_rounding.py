"""The GPU's loop over rows says what the paper says: in Triton's interpreter where Triton is, and on a device."""

from __future__ import annotations

import os

import pytest
import torch

from compressor.quantize.gptq import Factorised, Gptq
from compressor.quantize.qtensor import PER_CHANNEL, Grid
from tests import laws

LAYER = laws.correlated_layer(laws.rows_for(32))
SOLVERS = [
    Gptq(Grid(4, "symmetric", scale_search=True), 32),
    Gptq(Grid(3, "zero_point"), 32, act_order=True),
    Gptq(Grid(2, "absmax"), PER_CHANNEL),
]


@pytest.fixture
def interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel in the place of the CPU's loop, run by Triton's interpreter."""
    pytest.importorskip("triton", reason="triton is not installed; torch's CUDA wheels bring it along")
    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("TRITON_INTERPRET=1 lets Triton run on a CPU")
    from compressor.quantize.machine import gpu_rounding

    def round_block(self: Factorised, *values: torch.Tensor) -> None:
        target, given, pull, scale, zero, codes, errors = values
        gpu_rounding.round_block(target, given, pull, scale, zero, codes, errors, self.solver.grid.levels)

    monkeypatch.setattr(Factorised, "_round_block", round_block)


def expected(solver: Gptq) -> torch.Tensor:
    return solver.solve_slowly(LAYER.weight, LAYER.moment).q


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
@pytest.mark.usefixtures("interpreted")
def test_the_kernel_gives_the_codes_of_the_paper(solver: Gptq) -> None:
    assert torch.equal(solver.solve(LAYER.weight.float(), LAYER.moment.float()).q, expected(solver))


@pytest.mark.gpu
@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_a_device_gives_the_codes_of_the_paper(solver: Gptq) -> None:
    if not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device")
    found = solver.solve(LAYER.weight.float().cuda(), LAYER.moment.float().cuda()).q.cpu()
    assert float((found != expected(solver)).float().mean()) < 1e-3  # sums in another order: a code on an edge
