"""What calibration data leaves behind: of a linear's input the second moment, and each column's maximum.

    moment  =  sum over tokens of x x^T          float32 [in, in]

Gathered once for every input, however many weights read it (q/k/v, gate/up). Tokens arrive in batches [tokens, in].
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

# Output columns on which a weight's error is measured, evenly spread: the error is a sum over columns, and 128 of them
# tell two grids apart at a fraction of the cost of all.
ERROR_COLUMNS = 128
# Columns of one product. The moment is symmetric: each panel multiplies only itself and what lies right of it, which
# for 2048 columns is 56 % of the full product; narrower panels save little more and run slower.
PANEL = 256


class ColumnMaximum:
    """Largest absolute value of each column of a linear's input, over all tokens."""

    def __init__(self, width: int, device: torch.device | None = None) -> None:
        self.value = torch.zeros(width, device=device)

    def add(self, x: Tensor) -> None:
        """Add a batch, [tokens, in]."""
        self.value = torch.maximum(self.value, x.float().abs().amax(0))


class SecondMoment:
    """Sum of outer products of a linear's inputs."""

    def __init__(self, width: int, device: torch.device | None = None) -> None:
        self._upper = torch.zeros(
            width, width, device=device
        )  # left of the diagonal panels zero, until it is asked for
        self.panels = [self._upper[start : start + PANEL, start:] for start in range(0, width, PANEL)]

    def add(self, x: Tensor) -> None:
        """Add a batch, float32 or bfloat16 [tokens, in].

        Summed in float32 whatever x is: entries of a moment rounded to bfloat16 move its small eigenvalues below zero,
        and no damping that leaves the layer alone brings them back.
        """
        wide = x.float()
        with _as_exact_as(x):
            for index in range(len(self.panels)):
                self._add(index, wide)

    def add_to(self, index: int, x: Tensor) -> None:
        """Add a batch to one panel alone, for ranks that take turns."""
        with _as_exact_as(x):
            self._add(index, x)

    def _add(self, index: int, x: Tensor) -> None:
        start = index * PANEL
        self.panels[index].addmm_(x[:, start : start + PANEL].T.float(), x[:, start:].float())

    def value(self) -> Tensor:
        """The whole symmetric moment, float32 [in, in]: what lies right of the diagonal, mirrored in its place."""
        for start in range(0, len(self._upper), PANEL):
            panel, stop = slice(start, start + PANEL), start + PANEL
            upper = self._upper[panel, panel].triu()
            self._upper[panel, panel] = upper + upper.triu(1).T
            self._upper[stop:, panel] = self._upper[panel, stop:].T
        return self._upper


@contextmanager
def _as_exact_as(x: Tensor) -> Iterator[None]:
    """Products of float32 in which matrix units may read bfloat16 where that is what x holds: nothing is lost then,
    for what they sum up is float32 (AMX: 2.3 times as fast, and closer to float64 than without)."""
    precision: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]  # of a property of the module
    before = precision.fp32_precision
    precision.fp32_precision = "bf16" if x.dtype == torch.bfloat16 else before
    try:
        yield
    finally:
        precision.fp32_precision = before


def energy(moment: Tensor, matrix: Tensor) -> float:
    """trace(M^T H M): what a matrix adds up to on the data."""
    return float((matrix * (moment @ matrix)).sum())


def column_step(columns: int) -> int:
    """Every how manieth column stands for all of them."""
    return -(-columns // ERROR_COLUMNS)
