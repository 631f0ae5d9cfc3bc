"""Round to nearest: every weight goes to the closest point of its group's grid, whatever the data.

absmax and zero-point quantization as in Dettmers et al. 2022 (arXiv 2208.07339), section 2, per group, per channel or
per tensor.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from compressor.quantize.machine import fused
from compressor.quantize.qtensor import PER_TENSOR, Grid, QTensor, rows_of_group

TILE_WEIGHTS = 1 << 17  # 512 KB of float32, which stay in a core's cache while torch goes over them eight times
FUSED_TILE_WEIGHTS = 1 << 20  # where one sweep does it, and calls are what takes time
STRIP = 64  # columns; torch sums by the vector, and the order of a sum must not depend on where strips begin


@dataclass(frozen=True)
class RoundToNearest:
    """A solver that needs no statistic, unless the search of its scales is to be `weighted`."""

    grid: Grid
    group_size: int
    weighted: bool = False

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
        for some, inside, strip in self._tiles(groups, columns):
            count = some.stop - some.start
            tile = _grouped(_dense(weight[inside, strip]), count)
            scale, zero = self._fit(tile, None if importance is None else _grouped(importance[inside], count))
            self.grid.encode_bytes(tile, scale, zero, _grouped(codes[inside, strip], count))
            scales[some, strip], zeros[some, strip] = scale[:, 0], zero[:, 0]
        return QTensor(codes, scales, zeros, self.grid.bits, self.group_size)

    def _tiles(self, groups: Sequence[slice], columns: int) -> Iterator[tuple[slice, slice, slice]]:
        """What is rounded at a time: some groups of as many rows, those rows, and some columns."""
        rows, last = groups[0].stop - groups[0].start, len(groups) - 1  # which may be shorter
        size = FUSED_TILE_WEIGHTS if fused.is_there() else TILE_WEIGHTS
        step = columns if self.group_size == PER_TENSOR else max(size // rows // STRIP * STRIP, STRIP)
        count = max(size // rows // columns, 1)
        for some in [
            *(slice(start, min(start + count, last)) for start in range(0, last, count)),
            slice(last, last + 1),
        ]:
            inside = slice(groups[some.start].start, groups[some.stop - 1].stop)
            for start in range(0, columns, step):
                yield some, inside, slice(start, start + step)

    def _fit(self, tile: Tensor, importance: Tensor | None) -> tuple[Tensor, Tensor]:
        """Scale and zero of each column of each group, [groups, 1, columns]."""
        if self.group_size != PER_TENSOR:
            return self.grid.fit(tile, importance)
        spread = None if importance is None else importance.expand_as(tile).reshape(-1, 1)
        scale, zero = self.grid.fit(tile.reshape(-1, 1), spread)
        return scale.expand(1, 1, tile.shape[-1]), zero.expand(1, 1, tile.shape[-1])


def _grouped(tile: Tensor, count: int) -> Tensor:
    """[rows, columns] -> [groups, rows of each, columns], in the same memory."""
    return tile.view(count, len(tile) // count, tile.shape[1])


def _dense(tile: Tensor) -> Tensor:
    """The tile without gaps, its order of dimensions in memory kept: sums go over it in that order."""
    return tile.contiguous() if tile.stride(1) <= tile.stride(0) else tile.T.contiguous().T
