"""GPTQ: round one input row after another, and let the rows that follow absorb the error.

    Frantar, Ashkboos, Hoefler, Alistarh: GPTQ, 2022 (arXiv 2210.17323), algorithm 1.
    Minimises  |X W - X Q|^2  over Q on the grid, with  H = X^T X + damping * mean(diag X^T X) * I.

    With  H^-1 = U^T U,  U upper triangular, for i = 0 .. in-1:                                (solve_slowly)
        q_i     =  grid(w_i)
        w_j    -=  U_ij / U_ii * (w_i - q_i)              for every row j > i

The same numbers without an inverse: let  H = R R^T,  R upper triangular (a Cholesky factor from the last row up), and
e_j = w_j - q_j with the weights as they were given. Then row i, when its turn comes, has become

        w_i  +  sum over j < i of  R_ji / R_ii * e_j                                           (solve)

which is Babai's nearest plane (Chen et al. 2025, arXiv 2507.18553). One factorisation instead of three, every sum over
finished rows is a matrix product, and nothing behind the current block is touched.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import torch
from torch import Tensor

from compressor.quantize.machine import fused
from compressor.quantize.machine.memory import room
from compressor.quantize.machine.threads import one_thread
from compressor.quantize.qtensor import PER_CHANNEL, Grid, QTensor, group_of_row, rows_of_group

BLOCK = 128  # rows whose errors meet in one matrix product; the paper's block
STRIPE = 16  # rows inside a block that look at each other one by one
RETRIES = 4  # damping grows tenfold each time the moment is not positive definite


@dataclass(frozen=True)
class Gptq:
    """A solver that needs the second moment of its inputs.

    With `act_order` the most active inputs are rounded first and every group keeps the grid of its given weights, so
    rows stay where they are stored. Without it a group's grid is fitted when its turn comes, to the updated weights.
    """

    grid: Grid
    group_size: int
    damping: float = 0.01
    act_order: bool = False

    def solve(self, weight: Tensor, moment: Tensor) -> QTensor:
        """weight float32 [in, out], moment [in, in] -> QTensor. Raises: NotPositiveDefiniteError, as `factorise`."""
        return self.factorise(moment).solve(weight)

    def factorise(self, moment: Tensor) -> Factorised:
        """The part of the work that all weights of one input share.

        Raises: NotPositiveDefiniteError when no damping up to RETRIES tenfolds makes the moment one.
        """
        order = self.order(moment)
        ordered = moment[order][:, order] if self.act_order else moment
        damping, failed = self.damping, torch.empty((), dtype=torch.int32, device=moment.device)
        for _ in range(RETRIES + 1):
            factor = _turned(damped(ordered, damping)).mT  # all in the memory of one matrix; LAPACK reads columns
            torch.linalg.cholesky_ex(factor, out=(factor, failed))
            if not failed and bool(factor.diagonal().isfinite().all()):  # each sums up the squares of its row
                pull = _turned(factor.mT)
                return Factorised(self, pull.div_(pull.diagonal().clone()[:, None]), order, damping)
            damping *= 10
        raise NotPositiveDefiniteError(f"not positive definite with damping {damping / 10:g}")

    def order(self, moment: Tensor) -> Tensor:
        """Which row is rounded when, int64 [in]."""
        diagonal = moment.diagonal()
        if self.act_order:
            return torch.argsort(diagonal, descending=True, stable=True)
        return torch.arange(len(diagonal), device=diagonal.device)

    def solve_slowly(self, weight: Tensor, moment: Tensor) -> QTensor:
        """The equations of the paper, one row at a time, in the dtype of `moment`: the oracle of `solve`."""
        rows = weight.shape[0]
        order = self.order(moment)
        inverse = torch.linalg.inv(damped(moment, self.damping)[order][:, order])
        U = torch.linalg.cholesky(inverse, upper=True)
        W = weight[order].to(moment.dtype)
        Q = torch.empty_like(W)
        group = group_of_row(rows, self.group_size)
        groups = rows_of_group(rows, self.group_size)
        grids = [self.grid.fit(weight[one].to(moment.dtype)) for one in groups]
        for i in range(rows):
            g = int(group[order[i]])
            if not self.act_order and i == groups[g].start:
                grids[g] = self.grid.fit(W[groups[g]])
            scale, zero = grids[g]
            Q[i] = self.grid.encode(W[i : i + 1], scale, zero)
            error = (W[i] - (Q[i] - zero[0]) * scale[0]) / U[i, i]
            W[i + 1 :] -= U[i, i + 1 :, None] * error
        restored = torch.empty_like(Q)
        restored[order] = Q
        return _qtensor(restored, grids, self.grid, self.group_size)


@dataclass(frozen=True)
class Factorised:
    """A second moment made ready: `pull[i, j]` is R_ji / R_ii, by which the error of row j < i pulls row i."""

    solver: Gptq
    pull: Tensor = field(repr=False)
    order: Tensor
    damping: float

    def solve(self, weight: Tensor) -> QTensor:
        """weight float32 [in, out] -> QTensor; equals `solve_slowly` up to rounding of the arithmetic."""
        grid, group_size, rows = self.solver.grid, self.solver.group_size, weight.shape[0]
        static = self.solver.act_order or group_size == PER_CHANNEL
        given = weight.to(self.pull.dtype)
        grids = [grid.fit(given[one]) for one in rows_of_group(rows, group_size)] if static else []
        group = group_of_row(rows, group_size, weight.device)[self.order]
        W = given[self.order] if self.solver.act_order else given
        Q, E = torch.empty_like(W), torch.empty_like(W)
        for block in rows_of_group(rows, BLOCK if static else group_size):
            target = torch.addmm(W[block], self.pull[block, : block.start], E[: block.start])
            if static:
                scale, zero = (torch.stack([part[g][0] for g in group[block]]) for part in zip(*grids, strict=True))
            else:
                grids.append(grid.fit(self._updated(block, W[block], target)))
                scale, zero = (part.expand_as(target) for part in grids[-1])
            with one_thread():
                self._round_block(target, W[block], self.pull[block, block], scale, zero, Q[block], E[block])
        if self.solver.act_order:
            Q[self.order] = Q.clone()
        return _qtensor(Q, grids, grid, group_size)

    def _updated(self, block: slice, given: Tensor, target: Tensor) -> Tensor:
        """The block's weights as the paper has updated them when its first row's turn comes.

        `target` is given + the pull of earlier blocks; inside the block each row would pull the next as well, so
        updated = given + pull_block^-1 (target - given),  pull_block unit lower triangular.
        """
        if block.start == 0:
            return given
        pull = self.pull[block, block]
        inverse = torch.linalg.solve_triangular(pull, torch.eye(len(pull)).to(pull), upper=False, unitriangular=True)
        return torch.addmm(given, inverse, target - given)

    def _round_block(
        self, target: Tensor, given: Tensor, pull: Tensor, scale: Tensor, zero: Tensor, codes: Tensor, errors: Tensor
    ) -> None:
        """Round the rows of one block in turn, into `codes` and `errors`; every argument but pull is [rows, out]."""
        if target.is_cuda and (kernel := _gpu_kernel()) and kernel.fits(len(target)):
            kernel.round_block(target, given, pull, scale, zero, codes, errors, self.solver.grid.levels)
            return
        shifted = torch.addcmul(given, zero, scale)  # error = given - (code - zero) * scale = shifted - code * scale
        for stripe in rows_of_group(len(target), STRIPE):
            start = stripe.start
            if start > 0:
                target[stripe].addmm_(pull[stripe, :start], errors[:start])
            inner = pull[stripe, start:]
            rows = (target[stripe], shifted[stripe], inner, scale[stripe], zero[stripe])
            if not fused.round_rows(*rows, self.solver.grid.levels, codes[stripe], errors[stripe]):
                self._round_rows(*rows, codes[stripe], errors[stripe])

    def _round_rows(
        self, target: Tensor, shifted: Tensor, pull: Tensor, scale: Tensor, zero: Tensor, codes: Tensor, errors: Tensor
    ) -> None:
        """Round one row after another; each pulls those that follow, the first error first."""
        parts = (part.unbind() for part in (target, shifted, scale, zero, codes, errors))
        for i, (wanted, beyond, step, middle, code, error) in enumerate(zip(*parts, strict=True)):
            self.solver.grid.encode(wanted, step, middle, out=code)
            torch.addcmul(beyond, code, step, value=-1, out=error)
            target[i + 1 :].addcmul_(pull[i + 1 : len(target), i : i + 1], error)


class NotPositiveDefiniteError(ArithmeticError):
    """The second moment has no Cholesky factor, whatever the damping."""


def damped(moment: Tensor, damping: float) -> Tensor:
    """The moment with damping on its diagonal; an input that never spoke gets 1 there, and is merely rounded."""
    diagonal = moment.diagonal()
    silent = diagonal == 0
    result = (torch.empty_like(moment) if moment.is_cuda else room(tuple(moment.shape), moment.dtype)).copy_(moment)
    result.diagonal().copy_(torch.where(silent, torch.ones_like(diagonal), diagonal) + damping * diagonal.mean())
    return result


def _gpu_kernel() -> ModuleType | None:
    """The loop over rows as a kernel, where Triton is: on Linux, torch's CUDA wheels bring it along."""
    return import_module("compressor.quantize.machine.gpu_rounding") if find_spec("triton") else None


def _turned(matrix: Tensor) -> Tensor:
    """The square matrix in place, its rows and its columns from the last to the first."""
    rows = len(matrix)
    for start in range(0, rows // 2, BLOCK):
        stop = min(start + BLOCK, rows // 2)
        first, last = matrix[start:stop], matrix[rows - stop : rows - start]
        held = first.flip(0, 1)
        first.copy_(last.flip(0, 1))
        last.copy_(held)
    if rows % 2:
        matrix[rows // 2] = matrix[rows // 2].flip(0)
    return matrix


def _qtensor(codes: Tensor, grids: list[tuple[Tensor, Tensor]], grid: Grid, group_size: int) -> QTensor:
    scale, zero = (torch.cat(part) for part in zip(*grids, strict=True))
    return QTensor(codes.to(torch.uint8), scale.float(), zero.to(torch.uint8), grid.bits, group_size)
