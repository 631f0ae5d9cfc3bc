"""Every solver of the catalog on every grid that a recipe can name."""

from __future__ import annotations

import functools
import itertools

import pytest

from compressor import catalog
from compressor.quantize.gptq import Gptq
from compressor.quantize.qtensor import Grid
from compressor.quantize.rtn import RoundToNearest
from tests import laws

GRIDS = [
    Grid(*choice) for choice in itertools.product((8, 4, 3, 2), ("absmax", "zero_point", "symmetric"), (False, True))
]
GROUP_SIZES = (-1, 16, 32, 64, 128)
# Four groups of 128 take a second each: they see some of the grids, which hold every choice once.
CASES = [(grid, size) for size in GROUP_SIZES for grid in (GRIDS[::5] if size == 128 else GRIDS)]
CASES += [(Grid(2, "symmetric", scale_search=True, carried=True), size) for size in (-1, 32)]  # GPTQ's at 2 bits
MADE = {
    "rtn": (RoundToNearest,),
    "gptq": (functools.partial(Gptq, act_order=False), functools.partial(Gptq, act_order=True)),
}


@pytest.mark.parametrize(("grid", "group_size"), CASES, ids=str)
@pytest.mark.parametrize("name", catalog.SOLVERS)
def test_laws(name: str, grid: Grid, group_size: int) -> None:
    for make in MADE[name]:
        laws.check_solver(make(grid, group_size))
