from __future__ import annotations

import numpy as np
import pytest
import torch

from compressor.quantize import rtn
from compressor.quantize.qtensor import PER_CHANNEL, PER_TENSOR, Grid, rows_of_group
from compressor.quantize.rtn import RoundToNearest
from tests import laws
from tests.quantize.test_laws import CASES


@pytest.mark.parametrize(("grid", "group_size"), CASES, ids=str)
def test_equals_the_formulas_typed_out(grid: Grid, group_size: int) -> None:
    rows = laws.rows_for(group_size)
    weight = laws.correlated_layer(rows).weight
    solved = RoundToNearest(grid, group_size).solve(weight)
    for g, group in enumerate(rows_of_group(rows, group_size)):
        for column, one in enumerate(weight[group].T.numpy()):
            scale, zero = laws.fit_slowly(one, grid)
            assert solved.zero[g, column] == zero
            assert solved.scale[g, column] == pytest.approx(scale, rel=1e-7)  # stored as float32
            codes = laws.encode_slowly(one, scale, zero, grid.levels)
            np.testing.assert_array_equal(solved.q[group, column], codes)


@pytest.mark.parametrize("stored", ["in by out", "out by in", "with gaps"])
@pytest.mark.parametrize(("scheme", "search"), [("absmax", False), ("symmetric", True), ("zero_point", True)])
@pytest.mark.parametrize("group_size", [PER_CHANNEL, 32])
def test_tiles_give_the_bytes_of_whole_groups(
    group_size: int, scheme: str, search: bool, stored: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """300 columns are strips of 64 and a shorter one, or one tile."""
    weight = laws.correlated_layer(133).weight.float()[:, [0] * 300] * torch.linspace(-2, 2, 300).exp()
    weight[:, 7::9] = weight[:, 7::9].abs()  # of one sign
    weight = {"in by out": weight, "out by in": weight.T.contiguous().T, "with gaps": weight.repeat(1, 2)[:, :300]}[
        stored
    ]
    grid, found = Grid(4, scheme, scale_search=search), []
    for tile in (1, 1 << 30):
        monkeypatch.setattr(rtn, "TILE_WEIGHTS", tile)
        monkeypatch.setattr(rtn, "FUSED_TILE_WEIGHTS", tile)
        found.append(RoundToNearest(grid, group_size).solve(weight))
    for g, rows in enumerate(rows_of_group(133, group_size)):
        scale, zero = grid.fit(weight[rows])
        codes = grid.encode(weight[rows], scale, zero)
        for one in found:
            assert torch.equal(one.scale[g], scale[0])
            assert torch.equal(one.zero[g], zero[0].to(torch.uint8))
            assert torch.equal(one.q[rows], codes.to(torch.uint8))


@pytest.mark.parametrize("scheme", ["absmax", "zero_point"])
@pytest.mark.parametrize("bits", [8, 4, 3, 2])
def test_no_weight_moves_more_than_half_a_step(bits: int, scheme: str) -> None:
    weight = laws.correlated_layer(133).weight.float()
    solved = RoundToNearest(Grid(bits, scheme), 32).solve(weight)
    assert solved.scale.dtype == torch.float32
    step = solved.scale.repeat_interleave(32, 0)[:133]
    # Half a step of the grid, and the rounding of code * scale in float32: one part in 2^23 of at most 255 steps.
    assert bool(((solved.dequantize() - weight).abs() <= 0.5 * step * (1 + 1e-4)).all())


def test_the_data_is_not_looked_at() -> None:
    layer = laws.correlated_layer(133)
    solver = RoundToNearest(Grid(4, "absmax"), 32)
    assert torch.equal(solver.solve(layer.weight, layer.moment).q, solver.solve(layer.weight, None).q)


@pytest.mark.parametrize("scheme", ["absmax", "zero_point"])
def test_per_tensor_is_one_column_of_all_weights(scheme: str) -> None:
    weight = laws.correlated_layer(133).weight
    solved = RoundToNearest(Grid(8, scheme), PER_TENSOR).solve(weight)
    scale, zero = laws.fit_slowly(weight.numpy().reshape(-1), Grid(8, scheme))
    assert solved.scale.shape == solved.zero.shape == (1, 6)
    np.testing.assert_allclose(solved.scale, scale, rtol=1e-7)
    assert bool((solved.zero == zero).all())
    np.testing.assert_array_equal(solved.q, laws.encode_slowly(weight.numpy(), scale, zero, 255))
