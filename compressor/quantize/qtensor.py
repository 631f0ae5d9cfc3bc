"""QTensor: integer codes on a grid of scales and zero points. The one meeting point of solver, packing and graph.

    weight[i, o]  ~  (q[i, o] - zero[g, o]) * scale[g, o]        g = group of row i,  0 <= q < 2^bits

A group is `group_size` consecutive rows (inputs) of one column (output); the last may be shorter. -1 is one group a
column, 0 one for the whole matrix, its scale and zero point repeated for each column.

    absmax       scale = max|w| / (2^(bits-1) - 1)       zero = 2^(bits-1)
    zero_point   scale = (max - min) / (2^bits - 1)      zero = round(-min / scale), the range stretched to hold 0
    symmetric    the best, by squared error, of absmax and of two grids that leave no code unused:
                 scale = -w_longest / 2^(bits-1)         zero = 2^(bits-1): the side that reaches further gets one more
                 zero_point's, where 32 weights or more of a group all have one sign
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from compressor.quantize.machine import fused

PER_CHANNEL, PER_TENSOR = -1, 0
ROWS = -2  # the axis along which weights share a scale
# Shrinking a scale trades clipping of the largest weights for a finer grid on the rest. The best factor at 3 and 4
# bits lies between 0.65 and 1 on trained weights, at 2 bits, where a step is as wide as the largest weight, between
# 0.3 and 1; steps of 0.05 find it within the step. Where errors are carried on to other weights, 0.65 is the end at 2
# bits too: what is clipped further is more than the others make good (tests/bench/results/README.md).
SHRINK_STEP = 0.05
SHRINK_STEPS, STEPS_AT_2_BITS = 8, 15
# Smaller groups are of one sign by chance, one in 2^15 of those of 16; a zero point of its own for such a group would
# cost every other group of the weight one too.
ONE_SIGN_ROWS = 32
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

    def to(self, device: torch.device) -> QTensor:
        """The same on another device."""
        return replace(self, q=self.q.to(device), scale=self.scale.to(device), zero=self.zero.to(device))

    def __repr__(self) -> str:
        return f"QTensor({self.shape}, bits={self.bits}, group_size={self.group_size})"


@dataclass(frozen=True)
class Grid:
    """How scales and zero points are chosen for a block of weights."""

    bits: int
    scheme: str
    scale_search: bool = False
    half_scales: bool = False  # as a float16 holds them, for formats that store them so
    carried: bool = False  # the error of a weight is carried on to others, as GPTQ does

    @property
    def levels(self) -> int:
        """The largest code."""
        return int(2**self.bits - 1)

    def fit(self, weight: Tensor, importance: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Scale and zero, float32 [..., 1, columns], for weight [..., rows, columns] whose rows share them.

        importance: what the squared error of each weight counts, in a shape that broadcasts to theirs; none: all alike.
        """
        (scale, zero), *others = grids = list(self._spans(weight))
        if not others:
            return scale, zero
        if importance is None and (found := fused.closest(weight, grids, self.levels)):
            return found.scale, found.zero
        room = torch.empty_like(weight)
        least = self._squared_error(weight, scale, zero, importance, room)
        for candidate_scale, candidate_zero in others:
            error = self._squared_error(weight, candidate_scale, candidate_zero, importance, room)
            better = error < least
            least = torch.where(better, error, least)
            scale, zero = torch.where(better, candidate_scale, scale), torch.where(better, candidate_zero, zero)
        return scale, zero

    def encode(self, weight: Tensor, scale: Tensor, zero: Tensor, out: Tensor | None = None) -> Tensor:
        """Nearest codes, not yet integers in type: round(weight / scale + zero), ties to even, within the grid."""
        return torch.addcdiv(zero, weight, scale, out=out).round_().clamp_(0, self.levels)

    def encode_bytes(self, weight: Tensor, scale: Tensor, zero: Tensor, codes: Tensor) -> None:
        """The same codes, into uint8."""
        if not fused.encode(weight, scale, zero, self.levels, codes):
            codes.copy_(self.encode(weight, scale, zero).to(torch.int32))  # to bytes: half the time

    def _spans(self, weight: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Every scale and zero that is tried, the plain one first."""
        for scale, zero in _SPANS[self.scheme](weight, self.bits, self._factors()):
            yield (_half(scale) if self.half_scales else scale), zero

    def _factors(self) -> list[float]:
        most = STEPS_AT_2_BITS if self.bits == 2 and not self.carried else SHRINK_STEPS
        steps = most if self.scale_search else 1
        return [1 - SHRINK_STEP * step for step in range(steps)]

    def _squared_error(
        self, weight: Tensor, scale: Tensor, zero: Tensor, importance: Tensor | None, room: Tensor
    ) -> Tensor:
        decoded = self.encode(weight, scale, zero, out=room).sub_(zero).mul_(scale)
        squared = decoded.sub_(weight).square_()
        return (squared if importance is None else squared.mul_(importance)).sum(ROWS, keepdim=True)


Spans = Iterator[tuple[Tensor, Tensor]]


def _absmax(weight: Tensor, bits: int, factors: Sequence[float]) -> Spans:
    low, high = _extremes(weight)
    yield from _up_to(torch.maximum(high, -low), bits, factors)


def _up_to(largest: Tensor, bits: int, factors: Sequence[float]) -> Spans:
    half = 2 ** (bits - 1)
    for factor in factors:
        scale = _positive(largest * (factor / (half - 1)))
        yield scale, torch.full_like(scale, half)


def _zero_point(weight: Tensor, bits: int, factors: Sequence[float]) -> Spans:
    low, high = _extremes(weight)
    low, high = low.clamp_max(0), high.clamp_min(0)
    for factor in factors:
        scale = _positive((high - low) * (factor / (2**bits - 1)))
        yield scale, (-low * factor / scale).round_().clamp_(0, 2**bits - 1)


def _symmetric(weight: Tensor, bits: int, factors: Sequence[float]) -> Spans:
    low, high = _extremes(weight)
    longest, half = torch.where(high > -low, high, low), 2 ** (bits - 1)
    for factor, (scale, zero) in zip(factors, _up_to(longest.abs(), bits, factors), strict=True):
        yield scale, zero
        if factor < 1:  # at 1 no weight reaches the code that either sign has more
            yield -scale, zero
    whole, middle = torch.where(longest == 0, torch.ones_like(longest), -longest / half), torch.full_like(longest, half)
    yield whole, middle
    one_sign = (low >= 0) | (high <= 0)
    if weight.shape[ROWS] >= ONE_SIGN_ROWS and bool(one_sign.any()):
        for scale, zero in _zero_point(weight, bits, factors):
            yield torch.where(one_sign, scale, whole), torch.where(one_sign, zero, middle)


def _extremes(weight: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the largest weight of each column, [..., 1, columns]."""
    return fused.extremes(weight) or (weight.amin(ROWS, keepdim=True), weight.amax(ROWS, keepdim=True))


def _positive(scale: Tensor) -> Tensor:
    """A group of zeros gets scale 1: its codes are the zero point, and nothing divides by zero."""
    return torch.where(scale > 0, scale, torch.ones_like(scale))


def _half(scale: Tensor) -> Tensor:
    """As a float16 holds it, the sign kept."""
    return torch.copysign(scale.abs().half().to(scale).clamp(*HALF_RANGE), scale)


_SPANS = {"absmax": _absmax, "zero_point": _zero_point, "symmetric": _symmetric}


def side_by_side(parts: Sequence[QTensor]) -> QTensor:
    """The tensor whose columns are those of the parts, on the CPU: the inverse of `split`."""
    held = [part.to(torch.device("cpu")) for part in parts]
    q, scale, zero = (torch.cat([getattr(part, name) for part in held], 1) for name in ("q", "scale", "zero"))
    return replace(parts[0], q=q, scale=scale, zero=zero)


def rows_of_group(rows: int, group_size: int) -> list[slice]:
    """The groups of a matrix with `rows` inputs: 172 rows in groups of 32 are five of 32 and one of 12."""
    step = group_size if group_size > 0 else rows
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]


def group_of_row(rows: int, group_size: int, device: torch.device | None = None) -> Tensor:
    """Index of each row's group, int64 [rows]."""
    row = torch.arange(rows, device=device)
    return row // group_size if group_size > 0 else torch.zeros_like(row)
