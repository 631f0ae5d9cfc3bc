from __future__ import annotations

import numpy as np
import pytest
import torch

from compressor.quantize.qtensor import PER_TENSOR, Grid, rows_of_group
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
    assert not solver.needs_moment


@pytest.mark.parametrize("scheme", ["absmax", "zero_point"])
def test_per_tensor_is_one_column_of_all_weights(scheme: str) -> None:
    weight = laws.correlated_layer(133).weight
    solved = RoundToNearest(Grid(8, scheme), PER_TENSOR).solve(weight)
    scale, zero = laws.fit_slowly(weight.numpy().reshape(-1), Grid(8, scheme))
    assert solved.scale.shape == solved.zero.shape == (1, 6)
    np.testing.assert_allclose(solved.scale, scale, rtol=1e-7)
    assert bool((solved.zero == zero).all())
    np.testing.assert_array_equal(solved.q, laws.encode_slowly(weight.numpy(), scale, zero, 255))
    assert solved.bits_per_weight == 8 + 40 / weight.numel()
