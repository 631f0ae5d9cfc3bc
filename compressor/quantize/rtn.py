"""Round to nearest: every weight goes to the closest point of its group's grid, whatever the data.

absmax and zero-point quantization as in Dettmers et al. 2022 (arXiv 2208.07339), section 2, per group, per channel or
per tensor.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from compressor.quantize.qtensor import PER_TENSOR, Grid, QTensor, rows_of_group

TILE_WEIGHTS = 1 << 17  # 512 KB of float32
STRIP = 64  # columns; torch sums by the vector, and the order of a sum must not depend on where strips begin


@dataclass(frozen=True)
class RoundToNearest:
    """A solver that needs no statistic, unless the search of its scales is to be `weighted`."""

    grid: Grid
    group_size: int
    weighted: bool = False
    needs_moment = False

    def solve(self, weight: Tensor, moment: Tensor | None = None) -> QTensor:
        """weight float32 [in, out] -> QTensor.

        moment: looked at where `weighted` alone: the second moment of the inputs [in, in], or its diagonal [in]. An
        error then counts as much as the square of its input does on the data (what llama.cpp calls an imatrix).
        """
        importance = None
        if self.weighted and moment is not None:
            importance = (moment if moment.ndim == 1 else moment.diagonal())[:, None]
        (rows, columns), groups = weight.shape, rows_of_group(weight.shape[0], self.group_size)
        codes = torch.empty(rows, columns, dtype=torch.uint8, device=weight.device)
        scales = torch.empty(len(groups), columns, device=weight.device)
        zeros = torch.empty(len(groups), columns, dtype=torch.uint8, device=weight.device)
        for group, rows_of_one in enumerate(groups):
            inner = None if importance is None else importance[rows_of_one]
            for some in self._strips(rows_of_one, columns):
                tile = _dense(weight[rows_of_one, some])
                scale, zero = self._fit(tile, inner)
                self.grid.encode_bytes(tile, scale, zero, codes[rows_of_one, some])
                scales[group, some], zeros[group, some] = scale[0], zero[0]
        return QTensor(codes, scales, zeros, self.grid.bits, self.group_size)

    def _strips(self, rows: slice, columns: int) -> list[slice]:
        """Columns that are rounded at a time: a tile is gone over thirty times, and stays in a core's cache."""
        if self.group_size == PER_TENSOR:
            return [slice(0, columns)]
        step = max(TILE_WEIGHTS // (rows.stop - rows.start) // STRIP * STRIP, STRIP)
        return [slice(start, start + step) for start in range(0, columns, step)]

    def _fit(self, weight: Tensor, importance: Tensor | None) -> tuple[Tensor, Tensor]:
        if self.group_size != PER_TENSOR:
            return self.grid.fit(weight, importance=importance)
        spread = None if importance is None else importance.expand_as(weight).reshape(-1, 1)
        scale, zero = self.grid.fit(weight.reshape(-1, 1), importance=spread)
        return scale.repeat(1, weight.shape[1]), zero.repeat(1, weight.shape[1])


def _dense(tile: Tensor) -> Tensor:
    """The tile without gaps, its order of dimensions in memory kept: sums go over it in that order."""
    return tile.contiguous() if tile.stride(1) <= tile.stride(0) else tile.T.contiguous().T
