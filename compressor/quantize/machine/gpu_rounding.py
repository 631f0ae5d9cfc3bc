"""The rows of a block rounded in turn on a GPU, a tile of output columns a program: no Python between two rows.

    for every column o at once, for i = 0 .. rows-1:                       the same as `Factorised._round_block`
        wanted  =  target_io  +  sum over j < i of  pull_ij * error_jo
        code_io =  round(wanted / scale_io + zero_io)  within the grid
        error_io = given_io - (code_io - zero_io) * scale_io

Columns know nothing of each other, and a tile's errors stay in registers. Written in Triton, which torch's CUDA wheels
bring along; TRITON_INTERPRET=1 runs it on a CPU, for the test.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

TILE = 32  # columns of a program: 128 rows of them are 32 registers for each of its 128 threads
MOST_ROWS = 256  # errors of more rows do not fit into registers
TIES_TO_EVEN = tl.constexpr(1.5 * 2**23)  # a float32 this large has no fraction left


def fits(rows: int) -> bool:
    """Whether a block's errors stay in registers."""
    return rows <= MOST_ROWS


def round_block(
    target: Tensor,
    given: Tensor,
    pull: Tensor,
    scale: Tensor,
    zero: Tensor,
    codes: Tensor,
    errors: Tensor,
    levels: int,
) -> None:
    """Into `codes` and `errors`, float32 [rows, out] as all others are but pull [rows, rows]; rows may lie apart."""
    rows, columns = target.shape
    given_lines = (target, given, pull, scale, zero, codes, errors)
    strides = [one.stride(0) for one in given_lines]
    width = triton.next_power_of_2(rows)
    _round_tile[(triton.cdiv(columns, TILE),)](*given_lines, *strides, rows, columns, float(levels), width, TILE)


@triton.jit  # type: ignore[untyped-decorator]
def _round_tile(
    target: Any, given: Any, pull: Any, scale: Any, zero: Any, codes: Any, errors: Any,
    target_line: Any, given_line: Any, pull_line: Any, scale_line: Any, zero_line: Any, codes_line: Any,
    errors_line: Any, rows: Any, columns: Any, levels: Any, ROWS: tl.constexpr, TILE: tl.constexpr,
) -> None:  # fmt: skip
    column = tl.program_id(0) * TILE + tl.arange(0, TILE)
    inside, row = column < columns, tl.arange(0, ROWS)
    found = tl.zeros((ROWS, TILE), tl.float32)
    for i in range(rows):
        pulls = tl.load(pull + i * pull_line + row, mask=row < i, other=0.0)
        wanted = tl.load(target + i * target_line + column, mask=inside, other=0.0)
        wanted += tl.sum(pulls[:, None] * found, 0)
        step = tl.load(scale + i * scale_line + column, mask=inside, other=1.0)
        middle = tl.load(zero + i * zero_line + column, mask=inside, other=0.0)
        bounded = tl.minimum(tl.maximum(middle + tl.div_rn(wanted, step), 0.0), levels)
        code = (bounded + TIES_TO_EVEN) - TIES_TO_EVEN
        error = tl.load(given + i * given_line + column, mask=inside, other=0.0) - (code - middle) * step
        tl.store(codes + i * codes_line + column, code, mask=inside)
        tl.store(errors + i * errors_line + column, error, mask=inside)
        found = tl.where(row[:, None] == i, error[None, :], found)
