"""QTensor: integer codes on a grid of scales and zero points. The one meeting point of solver, packing and graph.

    weight[i, o]  ~  (q[i, o] - zero[g, o]) * scale[g, o]        g = group of row i,  0 <= q < 2^bits

A group is `group_size` consecutive rows (inputs) of one column (output); the last may be shorter. -1 is one group a
column, 0 one for the whole matrix, its scale and zero point repeated for each column.

    absmax       scale = max|w| / (2^(bits-1) - 1)       zero = 2^(bits-1)
    zero_point   scale = (max - min) / (2^bits - 1)      zero = round(-min / scale), the range stretched to hold 0
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

PER_CHANNEL, PER_TENSOR = -1, 0
# Shrinking a scale trades clipping of the largest weights for a finer grid on the rest. The best factor at 3 and 4
# bits lies between 0.65 and 1 on trained weights, at 2 bits, where a step is as wide as the largest weight, between
# 0.3 and 1; steps of 0.05 find it within the step.
SHRINK_STEP = 0.05
SHRINK_STEPS = {8: 8, 4: 8, 3: 8, 2: 15}
# What a float16 can hold: scales that a format stores in it are fitted as it will store them.
HALF_RANGE = (2.0**-24, 65504.0)


class Choice(NamedTuple):
    """How finely a weight is quantized."""

    bits: int
    group_size: int


@dataclass(frozen=True)
class QTensor:
    """A quantized matrix. q uint8 [in, out]; scale float32 and zero uint8 [groups, out]."""

    q: Tensor
    scale: Tensor
    zero: Tensor
    bits: int
    group_size: int

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self.q.shape
        return int(rows), int(columns)

    @property
    def bits_per_weight(self) -> float:
        """Codes, scales (32 bits) and zero points (`bits`), spread over the weights."""
        scales = 1 if self.group_size == PER_TENSOR else self.scale.numel()
        return self.bits + scales * (32 + self.bits) / self.q.numel()

    def dequantize(self) -> Tensor:
        """float32 [in, out]."""
        weight = self.q.float()
        for g, rows in enumerate(rows_of_group(self.shape[0], self.group_size)):
            weight[rows].sub_(self.zero[g]).mul_(self.scale[g])
        return weight

    def every(self, step: int) -> QTensor:
        """The first of every `step` columns."""
        return replace(self, q=self.q[:, ::step], scale=self.scale[:, ::step], zero=self.zero[:, ::step])

    def split(self, columns: Sequence[int]) -> list[QTensor]:
        """The tensors of matrices that were quantized side by side."""
        parts = zip(*(torch.split(whole, list(columns), 1) for whole in (self.q, self.scale, self.zero)), strict=True)
        return [QTensor(q, scale, zero, self.bits, self.group_size) for q, scale, zero in parts]

    def __repr__(self) -> str:
        return f"QTensor({self.shape}, bits={self.bits}, group_size={self.group_size})"


@dataclass(frozen=True)
class Grid:
    """How scales and zero points are chosen for a block of weights."""

    bits: int
    scheme: str
    scale_search: bool = False
    half_scales: bool = False  # as a float16 holds them, for formats that store them so

    @property
    def levels(self) -> int:
        """The largest code."""
        return int(2**self.bits - 1)

    def fit(self, weight: Tensor, dim: int = 0) -> tuple[Tensor, Tensor]:
        """Scale and zero (both float32) for weights that share them along `dim`, which is kept with size 1."""
        span = partial(self._span, weight, dim)
        scale, zero = span(1.0)
        if not self.scale_search:
            return scale, zero
        least = self._squared_error(weight, scale, zero, dim)
        for step in range(1, SHRINK_STEPS[self.bits]):
            candidate_scale, candidate_zero = span(1 - SHRINK_STEP * step)
            error = self._squared_error(weight, candidate_scale, candidate_zero, dim)
            better = error < least
            least = torch.where(better, error, least)
            scale, zero = torch.where(better, candidate_scale, scale), torch.where(better, candidate_zero, zero)
        return scale, zero

    def encode(self, weight: Tensor, scale: Tensor, zero: Tensor, out: Tensor | None = None) -> Tensor:
        """Nearest codes, not yet integers in type: round(weight / scale + zero), ties to even, within the grid."""
        return torch.addcdiv(zero, weight, scale, out=out).round_().clamp_(0, self.levels)

    def _span(self, weight: Tensor, dim: int, factor: float) -> tuple[Tensor, Tensor]:
        scale, zero = _SPANS[self.scheme](weight, dim, self.bits, factor)
        return (scale.half().to(scale).clamp(*HALF_RANGE), zero) if self.half_scales else (scale, zero)

    def _squared_error(self, weight: Tensor, scale: Tensor, zero: Tensor, dim: int) -> Tensor:
        decoded = self.encode(weight, scale, zero).sub_(zero).mul_(scale)
        return decoded.sub_(weight).square_().sum(dim, keepdim=True)


def _absmax(weight: Tensor, dim: int, bits: int, factor: float) -> tuple[Tensor, Tensor]:
    half = 2 ** (bits - 1)
    scale = _positive(weight.abs().amax(dim, keepdim=True) * (factor / (half - 1)))
    return scale, torch.full_like(scale, half)


def _zero_point(weight: Tensor, dim: int, bits: int, factor: float) -> tuple[Tensor, Tensor]:
    low, high = weight.amin(dim, keepdim=True).clamp_max(0), weight.amax(dim, keepdim=True).clamp_min(0)
    scale = _positive((high - low) * (factor / (2**bits - 1)))
    return scale, (-low * factor / scale).round_().clamp_(0, 2**bits - 1)


def _positive(scale: Tensor) -> Tensor:
    """A group of zeros gets scale 1: its codes are the zero point, and nothing divides by zero."""
    return torch.where(scale > 0, scale, torch.ones_like(scale))


_SPANS = {"absmax": _absmax, "zero_point": _zero_point}


def rows_of_group(rows: int, group_size: int) -> list[slice]:
    """The groups of a matrix with `rows` inputs: 172 rows in groups of 32 are five of 32 and one of 12."""
    step = group_size if group_size > 0 else rows
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]


def group_of_row(rows: int, group_size: int, device: torch.device | None = None) -> Tensor:
    """Index of each row's group, int64 [rows]."""
    row = torch.arange(rows, device=device)
    return row // group_size if group_size > 0 else torch.zeros_like(row)
