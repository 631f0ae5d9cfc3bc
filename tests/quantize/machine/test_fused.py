"""C against torch, bit for bit; skipped where nothing compiles."""

from __future__ import annotations

import pytest
import torch

from compressor.quantize.gptq import Gptq
from compressor.quantize.machine import compiled, fused
from compressor.quantize.machine.fused import LANES
from compressor.quantize.qtensor import PER_CHANNEL, PER_TENSOR, Grid
from compressor.quantize.rtn import RoundToNearest


@pytest.fixture
def in_c(monkeypatch: pytest.MonkeyPatch) -> None:
    """C while a test runs: whether another one has asked for it or not."""
    load(monkeypatch)
    if not fused.is_there():
        pytest.skip("no C compiler here, or one whose bits are not torch's")


def load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "_loaded", [])
    fused.prepare.__wrapped__()


def weight(rows: int, columns: int) -> torch.Tensor:
    """Columns of different sizes, a row of zeros and one group of one sign."""
    generator = torch.Generator().manual_seed(rows)
    drawn = torch.randn(rows, columns, generator=generator) * torch.rand(1, columns, generator=generator)
    drawn[rows // 2] = 0
    drawn[:, 3] = drawn[:, 3].abs()
    return drawn


def without_c(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "_loaded", [])


@pytest.mark.parametrize("scheme", ["absmax", "zero_point", "symmetric"])
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize(
    ("rows", "group"), [(1, 1), (7, 7), (172, 32), (300, 128), (5000, PER_CHANNEL), (90, PER_TENSOR)]
)
def test_rounding_has_the_bits_of_torch(
    rows: int, group: int, bits: int, scheme: str, in_c: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    solver = RoundToNearest(Grid(bits, scheme, scale_search=True), group)
    W = weight(rows, 2 * LANES)
    fast = solver.solve(W)
    without_c(monkeypatch)
    slow = solver.solve(W)
    assert all(torch.equal(getattr(fast, part), getattr(slow, part)) for part in ("q", "scale", "zero"))


@pytest.mark.parametrize("missing", [None, 0, 39])
def test_the_extremes_are_those_of_torch(missing: int | None, in_c: None) -> None:
    """A weight that is no number is no number's neighbour: neither extreme of its column is one."""
    tile = weight(120, 2 * LANES).view(3, 40, -1)
    if missing is not None:
        tile[1, missing] = torch.nan
    found, wanted = fused.extremes(tile), (tile.amin(-2, keepdim=True), tile.amax(-2, keepdim=True))
    assert found is not None
    assert all(torch.allclose(one, other, 0, 0, equal_nan=True) for one, other in zip(found, wanted, strict=True))


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("group", [32, 128, PER_CHANNEL])
@pytest.mark.parametrize("columns", [LANES, 75])
def test_gptq_has_the_bits_of_torch(
    columns: int, group: int, act_order: bool, in_c: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    W, X = weight(300, columns), torch.randn(900, 300, generator=torch.Generator().manual_seed(1)).cumsum(1)
    factorised = Gptq(Grid(4, "symmetric"), group, act_order=act_order).factorise(X.T @ X)
    fast = factorised.solve(W)
    without_c(monkeypatch)
    slow = factorised.solve(W)
    assert all(torch.equal(getattr(fast, part), getattr(slow, part)) for part in ("q", "scale", "zero"))


def test_c_is_asked_at_all(in_c: None) -> None:
    tile, codes = weight(32, LANES), torch.empty(32, LANES, dtype=torch.uint8)
    scale, zero = tile.abs().amax(0, keepdim=True) / 8, torch.full((1, LANES), 8.0)
    assert fused.closest(tile, [(scale, zero)], 15) is not None
    assert fused.encode(tile, scale, zero, 15, codes)
    rows = (tile, tile, tile[:, :32], scale.expand_as(tile), zero.expand_as(tile))
    assert fused.round_rows(*rows, 15, torch.empty_like(tile), torch.empty_like(tile))


def test_what_does_not_agree_with_torch_is_not_used(in_c: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "FLAGS", (*compiled.FLAGS, "-Drintf=floorf"))
    compiled.begin.cache_clear()
    try:
        load(monkeypatch)
        assert not fused.is_there()
    finally:
        compiled.begin.cache_clear()
