"""What calibration data leaves behind: of a linear's input the second moment, and each column's maximum.

    moment  =  sum over tokens of x x^T          float32 [in, in]

Gathered once for every input, however many weights read it (q/k/v, gate/up). Tokens arrive in batches [tokens, in].
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from compressor.quantize.machine.memory import Scratch, room
from compressor.quantize.machine.threads import Map, a_weight_each

# Output columns on which a weight's error is measured, evenly spread: the error is a sum over columns, and 128 of them
# tell two grids apart at a fraction of the cost of all.
ERROR_COLUMNS = 128
PART = 32  # of them that one thread adds up: a sum that threads share depends on how many share it
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
        self._width, self._device = width, device or torch.device("cpu")
        self._scratch = Scratch()
        # What lies right of the diagonal, in panels that start at it.
        self.panels = [self._zeros(min(PANEL, width - start), width - start) for start in range(0, width, PANEL)]

    def add(self, x: Tensor, each: Map = map) -> None:
        """Add a batch, float32 or bfloat16 [tokens, in]; each: a map that takes a panel at a time.

        Summed in float32 whatever x is: entries of a moment rounded to bfloat16 move its small eigenvalues below zero,
        and no damping that leaves the layer alone brings them back.
        """
        wide = x.float() if x.is_cuda else self._scratch.take("x", tuple(x.shape), torch.float32).copy_(x)
        with _as_exact_as(x):
            for _ in each(lambda index: self._add(index, wide), range(len(self.panels))):
                pass

    def add_to(self, index: int, x: Tensor) -> None:
        """Add a batch to one panel alone, for ranks that take turns."""
        with _as_exact_as(x):
            self._add(index, x)

    def _add(self, index: int, x: Tensor) -> None:
        start = index * PANEL
        self.panels[index].addmm_(x[:, start : start + PANEL].T.float(), x[:, start:].float())

    def value(self) -> Tensor:
        """The whole symmetric moment, float32 [in, in]; asked for once: the panels go, one by one, as it is filled."""
        whole = self._zeros(self._width, self._width)
        for start in range(0, self._width, PANEL):
            panel, stop = self.panels.pop(0), start + PANEL
            rows = slice(start, stop)
            upper = panel[:, :PANEL].triu()
            whole[rows, rows] = upper + upper.triu(1).T
            whole[rows, stop:] = panel[:, PANEL:]
            whole[stop:, rows] = panel[:, PANEL:].T
        return whole

    def _zeros(self, rows: int, columns: int) -> Tensor:
        if self._device.type == "cpu":
            return room((rows, columns), torch.float32)
        return torch.zeros(rows, columns, device=self._device)


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
    """trace(M^T H M): what a matrix adds up to on the data, to the last bit whatever the number of threads."""

    def part(some: Tensor) -> float:
        return float((some * (moment @ some)).sum())

    with a_weight_each() as pool:
        return math.fsum(pool.map(part, torch.split(matrix, PART, 1)))


def proportion(part: float, whole: float) -> float | None:
    """One sum of squares in another, as a manifest holds it: six digits, for those behind them depend on how many
    threads added up. None where it is no number, for JSON has no other word for it."""
    found = part / whole if whole else 0.0
    return float(f"{found:.6g}") if math.isfinite(found) else None


def column_step(columns: int) -> int:
    """The step at which columns are taken, so that few of them stand for all."""
    return -(-columns // ERROR_COLUMNS)
