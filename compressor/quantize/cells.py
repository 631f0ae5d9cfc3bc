"""Codes of fewer than eight bits lie several to a byte, down the rows: the first in the low bits.

[rows, columns] codes   <->   [ceil(rows * bits / 8), columns] bytes        bits: 2, 4 or 8 of a cell
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
BITS = (2, 4, 8)


def narrowest(bits: int) -> int:
    """Bits of the smallest cell that holds a code of so many."""
    return next(cell for cell in BITS if cell >= bits)


def pack(codes: Bytes, bits: int) -> Bytes:
    """Codes as bytes; the last ones are filled up with zeros."""
    cells = 8 // bits
    if missing := -len(codes) % cells:
        codes = np.pad(codes, ((0, missing), (0, 0)))
    first, *others = (codes[cell::cells] for cell in range(cells))
    if not others:
        return first
    packed = others[-1] << np.uint8(bits)
    for inner in reversed(others[:-1]):
        packed |= inner
        packed <<= np.uint8(bits)
    packed |= first
    return packed


def unpack(packed: Bytes, bits: int, rows: int) -> Bytes:
    """The inverse, of so many rows."""
    cells = 8 // bits
    codes = np.empty((len(packed) * cells, packed.shape[1]), np.uint8)
    for cell in range(cells):
        part = np.right_shift(packed, np.uint8(cell * bits), out=codes[cell::cells])
        part &= np.uint8(2**bits - 1)
    return codes[:rows]
