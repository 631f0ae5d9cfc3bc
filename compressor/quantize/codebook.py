"""NF4 and FP4: 4-bit codes that name one of 16 values, times the largest absolute value of their block.

    Dettmers, Pagnoni, Holtzman, Zettlemoyer: QLoRA, 2023 (arXiv 2305.14314), section 3.

    weight[i, o]  ~  book[q[i, o]] * absmax[block of o * in + i]

Blocks run along the inputs of one output after another, and on into the next where `in` is no multiple of the block,
as bitsandbytes lays a weight [out, in] out. nf4: quantiles of a normal distribution, with an exact 0. fp4: sign, 2
bits of exponent and 1 of mantissa, over 12. The numbers are those of bitsandbytes (functional.py, kernels.cu).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

BITS = 4
NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
_FP4 = (0.0, 0.0625 / 12, 8 / 12, 12 / 12, 4 / 12, 6 / 12, 2 / 12, 3 / 12)
BOOKS = {"nf4": NF4, "fp4": (*_FP4, *(-value for value in _FP4))}


@dataclass(frozen=True)
class CodebookTensor:
    """A matrix in the words of a code book. q uint8 [in, out]; scale, the absmax of each block, float32 [blocks]."""

    q: Tensor
    scale: Tensor
    book: str
    block_size: int
    bits = BITS

    @property
    def group_size(self) -> int:
        """Weights that share a scale."""
        return self.block_size

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self.q.shape
        return int(rows), int(columns)

    def dequantize(self) -> Tensor:
        """float32 [in, out]."""
        values = torch.tensor(BOOKS[self.book], dtype=torch.float32)[self.q.T.reshape(-1).long()]
        scale = self.scale.repeat_interleave(self.block_size)[: values.numel()]
        return (values * scale).reshape(self.q.T.shape).T

    def __repr__(self) -> str:
        return f"CodebookTensor({self.shape}, {self.book}, block_size={self.block_size})"


@dataclass(frozen=True)
class Codebook:
    """A solver that needs no statistic: the nearest word of the book, for every weight."""

    book: str
    block_size: int

    def solve(self, weight: Tensor) -> CodebookTensor:
        """weight float32 [in, out] -> CodebookTensor."""
        flat = weight.T.reshape(-1)
        blocks = torch.nn.functional.pad(flat, (0, -len(flat) % self.block_size)).reshape(-1, self.block_size)
        absmax = blocks.abs().amax(1)
        spread = torch.where(absmax > 0, absmax, torch.ones_like(absmax)).repeat_interleave(self.block_size)
        codes = nearest(flat / spread[: len(flat)], self.book)
        return CodebookTensor(codes.reshape(weight.T.shape).T.contiguous(), absmax, self.book, self.block_size)


def nearest(values: Tensor, book: str) -> Tensor:
    """Codes, uint8, of the words nearest to values in [-1, 1]; a tie goes to the word nearer to 0 or below it."""
    words = torch.tensor(BOOKS[book], dtype=values.dtype)
    if book == "fp4":  # a sign and a magnitude: two words for 0
        return nearest_of(values.abs(), words[:8]) + (values < 0).to(torch.uint8) * 8
    return nearest_of(values, words)


def nearest_of(values: Tensor, words: Tensor) -> Tensor:
    """Indices of the nearest words, which need not be in order."""
    ordered, order = words.sort()
    edges = (ordered[1:] + ordered[:-1]) / 2
    return order.to(torch.uint8)[torch.bucketize(values, edges)]
