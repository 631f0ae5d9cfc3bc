"""LLM.int8(): the few loud columns of an activation stay float, all others are multiplied as integers.

    Dettmers, Lewis, Belkada, Zettlemoyer: LLM.int8(), 2022 (arXiv 2208.07339), sections 3.1 and 3.2.

    O      =  columns h of X with  max|X_h| >= threshold                         threshold 6.0
    s_x    =  max over h not in O of |X_th|  / 127        for every token t      (vector-wise)
    s_w    =  max over h not in O of |W_ho|  / 127        for every output o
    X W    ~  sum over h in O of X_h W_h   +   s_x s_w * sum over h not in O of  round(X / s_x) round(W / s_w)

O is found on calibration data and fixed, so that its weights can be stored as they were. Or it is found anew at each
call; then all of W is stored in integers, and the rows of O are multiplied as what they have become (as bitsandbytes).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from compressor.quantize.qtensor import PER_CHANNEL, Grid, QTensor

STEPS = 127
GRID = Grid(8, "absmax")


@dataclass(frozen=True)
class LlmInt8:
    """The decomposition of one linear: `threshold` decides which columns of its input are outliers."""

    threshold: float
    at_run_time: bool = False

    def outliers(self, largest: Tensor) -> list[int]:
        """Columns that stay float, of inputs whose largest absolute values are given, [in]."""
        return [] if self.at_run_time else torch.nonzero(largest >= self.threshold).flatten().tolist()

    def solve(self, weight: Tensor, outliers: Sequence[int]) -> QTensor:
        """weight float32 [in, out] -> int8 per output; the rows of outliers are left out of scale and codes."""
        regular = weight.clone()
        regular[list(outliers)] = 0
        scale = torch.clamp_min(regular.abs().amax(0, keepdim=True) / STEPS, torch.finfo(torch.float32).tiny)
        scale = torch.where(regular.any(0, keepdim=True), scale, torch.ones_like(scale))
        zero = torch.full_like(scale, 2 ** (GRID.bits - 1))
        codes = torch.round(regular / scale) + zero
        return QTensor(codes.to(torch.uint8), scale, zero.to(torch.uint8), GRID.bits, PER_CHANNEL)

    def product(self, x: Tensor, weight: Tensor, tensor: QTensor, outliers: Sequence[int]) -> Tensor:
        """The equations above, in float64 but for the roundings: what the graph will compute. x [tokens, in]."""
        columns, given = list(outliers), weight.double()
        if self.at_run_time:
            columns = torch.nonzero(x.abs().amax(0) >= self.threshold).flatten().tolist()
            given = tensor.dequantize().double()
        regular = x.clone()
        regular[:, columns] = 0
        scale = torch.clamp_min(regular.abs().amax(1, keepdim=True), 2.0**-100) / STEPS
        codes = torch.round(regular / scale).double()
        integers = tensor.q.double() - tensor.zero.double()
        integer = codes @ integers * scale.double() * tensor.scale.double()
        return integer + x[:, columns].double() @ given[columns]
