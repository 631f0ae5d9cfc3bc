"""One sweep over a tile of weights where torch makes eight: C, compiled for this processor where there is a compiler.

    prepare()                                     until then, and where nothing compiles, all below say no
    extremes(tile)                                the least and the largest weight of each column
    closest(tile, grids, levels)                  of the grids that Grid.fit tries, the one with the least error
    encode(tile, scale, zero, levels, codes)      the codes of the grid that it chose
    round_rows(target, shifted, pull, ...)        the column loop of GPTQ, a stripe at a time

Bit for bit what torch computes, which is asked when it is loaded, so where there is no compiler, or memory lies
otherwise than C was told, torch does it and nobody sees but the clock.
"""

from __future__ import annotations

import ctypes
import functools
import math
from collections.abc import Sequence
from ctypes import c_float, c_int, c_ssize_t, c_void_p
from typing import NamedTuple

import torch
from torch import Tensor

from compressor.quantize.machine import compiled

LANES = 64  # columns that C goes over at a time; the last few of other numbers torch adds up in another order
LEVELS, LEAST_POWER = 4, 4  # torch sums 16 rows, then 16 such sums and so on, four levels deep

_TILE = (c_void_p, c_ssize_t, c_ssize_t, c_ssize_t, c_ssize_t, c_void_p, c_void_p)
_SIGNATURES = {
    "extremes": (c_void_p, c_ssize_t, c_ssize_t, c_ssize_t, c_ssize_t, c_void_p, c_void_p),
    "closest": (*_TILE, c_ssize_t, c_float, c_int, c_void_p, c_void_p, c_void_p),
    "encode": (*_TILE, c_float, c_void_p, c_ssize_t),
    "round_rows": (
        *(c_void_p, c_void_p, c_ssize_t, c_ssize_t, c_void_p, c_ssize_t, c_ssize_t),
        *(c_void_p, c_void_p, c_ssize_t, c_float, c_void_p, c_void_p),
    ),
}
_loaded: list[ctypes.CDLL] = []


@functools.cache
def prepare() -> None:
    """Have the functions of C from now on, where they compile and agree with torch."""
    library = compiled.library()
    if library is None:
        return
    for name, types in _SIGNATURES.items():
        function = getattr(library, name)
        function.argtypes, function.restype = types, None
    _loaded.append(library)
    if not _agrees():
        _loaded.clear()


def is_there() -> bool:
    """Whether C does the sweeps over what lies in memory as it was told."""
    return bool(_loaded)


def _agrees() -> bool:
    """Whether C and torch give the same bits: a build of torch for another processor may multiply and add otherwise."""
    weight = torch.arange(40.0 * LANES).sin().view(40, LANES)
    scale, zero, levels = weight.abs().amax(0, keepdim=True) / 8, torch.full((1, LANES), 8.0), 15
    nearest = torch.addcdiv(zero, weight, scale).round_().clamp_(0, levels)
    codes, rounded, errors = torch.empty_like(weight, dtype=torch.uint8), torch.empty_like(weight), weight.clone()
    one = closest(weight, [(scale, zero)], levels)
    encode(weight, scale, zero, levels, codes)
    round_rows(weight, weight, weight, scale.expand_as(weight), zero.expand_as(weight), levels, rounded, errors)
    found = (one and one.error, codes, rounded[:1], errors[:1])
    wanted = (
        nearest.sub(zero).mul_(scale).sub_(weight).square_().sum(0, keepdim=True),
        nearest.to(torch.uint8),
        nearest[:1],
        torch.addcmul(weight[:1], nearest[:1], scale, value=-1),
    )
    return all(one is not None and torch.equal(one, other) for one, other in zip(found, wanted, strict=True))


def extremes(weight: Tensor) -> tuple[Tensor, Tensor] | None:
    """The least and the largest weight of each column, [..., 1, columns]; None where torch has to look for them."""
    low, high = (torch.empty_like(weight[..., :1, :]) for _ in range(2))
    if not _fits(weight, low):
        return None
    _loaded[0].extremes(*_tile(weight, low, high))
    return low, high


class Closest(NamedTuple):
    """Of several grids the one with the least squared error for each column, and that error; all [..., 1, columns]."""

    scale: Tensor
    zero: Tensor
    error: Tensor


def closest(weight: Tensor, grids: Sequence[tuple[Tensor, Tensor]], levels: int) -> Closest | None:
    """Of grids, each a scale and a zero [..., 1, columns], the nearest to weight [..., rows, columns]."""
    if not _fits(weight, grids[0][0]):
        return None
    scales, zeros = (torch.stack(parts) for parts in zip(*grids, strict=True))
    found = Closest(*(torch.empty_like(scales[0]) for _ in Closest._fields))
    power = max(LEAST_POWER, math.ceil(math.log2(weight.shape[-2])) // LEVELS)
    tile, pointers = _tile(weight, scales, zeros), (one.data_ptr() for one in found)
    _loaded[0].closest(*tile, len(grids), levels, power, *pointers)
    return found


def encode(weight: Tensor, scale: Tensor, zero: Tensor, levels: int, codes: Tensor) -> bool:
    """Fill codes, uint8 [..., rows, columns]; False where it has to be done otherwise."""
    if not _fits(weight, scale) or not _rows_follow(codes):
        return False
    scale, zero = scale.contiguous(), zero.contiguous()  # held while C reads them
    _loaded[0].encode(*_tile(weight, scale, zero), levels, codes.data_ptr(), codes.stride(-2))
    return True


def round_rows(
    target: Tensor,
    shifted: Tensor,
    pull: Tensor,
    scale: Tensor,
    zero: Tensor,
    levels: int,
    codes: Tensor,
    errors: Tensor,
) -> bool:
    """Round rows [rows, columns] in turn, each pulled by the errors of those before; False where torch has to."""
    dense = all(one.is_contiguous() for one in (target, shifted, codes, errors))
    if not _reads(target) or not dense or scale.stride() != zero.stride() or scale.stride(1) != 1:
        return False
    _loaded[0].round_rows(
        *(target.data_ptr(), shifted.data_ptr(), *target.shape, pull.data_ptr(), *pull.stride()),
        *(scale.data_ptr(), zero.data_ptr(), scale.stride(0), levels, codes.data_ptr(), errors.data_ptr()),
    )
    return True


def _reads(weight: Tensor) -> bool:
    return is_there() and weight.device.type == "cpu" and weight.dtype == torch.float32


def _fits(weight: Tensor, scale: Tensor) -> bool:
    whole = weight.shape[-1] % LANES == 0 and scale.shape == weight[..., :1, :].shape
    return whole and _rows_follow(weight) and _reads(weight)


def _rows_follow(tile: Tensor) -> bool:
    """Whether groups of rows lie one behind the other, and the columns of a row do."""
    behind = tile.ndim == 2 or (tile.ndim == 3 and tile.stride(0) == tile.shape[1] * tile.stride(1))
    return behind and tile.stride(-1) == 1


def _tile(weight: Tensor, scale: Tensor, zero: Tensor) -> tuple[int, ...]:
    *groups, rows, columns = weight.shape
    return (weight.data_ptr(), math.prod(groups), rows, columns, weight.stride(-2), scale.data_ptr(), zero.data_ptr())
