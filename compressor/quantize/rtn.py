"""Round to nearest: every weight goes to the closest point of its group's grid, whatever the data.

absmax and zero-point quantization as in Dettmers et al. 2022 (arXiv 2208.07339), section 2, per group, per channel or
per tensor.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from compressor.quantize.qtensor import PER_TENSOR, Grid, QTensor, rows_of_group


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
        codes, scales, zeros = [], [], []
        for rows in rows_of_group(weight.shape[0], self.group_size):
            scale, zero = self._fit(weight[rows], None if importance is None else importance[rows])
            codes.append(self.grid.encode(weight[rows], scale, zero).to(torch.uint8))
            scales.append(scale)
            zeros.append(zero.to(torch.uint8))
        return QTensor(torch.cat(codes), torch.cat(scales), torch.cat(zeros), self.grid.bits, self.group_size)

    def _fit(self, weight: Tensor, importance: Tensor | None) -> tuple[Tensor, Tensor]:
        if self.group_size != PER_TENSOR:
            return self.grid.fit(weight, importance=importance)
        spread = None if importance is None else importance.expand_as(weight).reshape(-1, 1)
        scale, zero = self.grid.fit(weight.reshape(-1, 1), importance=spread)
        return scale.repeat(1, weight.shape[1]), zero.repeat(1, weight.shape[1])
