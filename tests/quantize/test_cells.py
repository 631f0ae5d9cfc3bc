"""Codes in cells: the first in the low bits, and back whatever the number of rows."""

from __future__ import annotations

import numpy as np
import pytest

from compressor.quantize import cells


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("rows", [1, 4, 5, 8, 11])
def test_codes_lie_in_cells_and_come_back(rows: int, bits: int) -> None:
    codes = np.random.default_rng(rows).integers(0, 2**bits, (rows, 3), np.uint8)
    packed = cells.pack(codes, bits)
    per_byte = 8 // bits
    assert packed.shape == (-(-rows // per_byte), 3)
    assert packed[0, 1] == sum(int(code) << bits * cell for cell, code in enumerate(codes[:per_byte, 1]))
    np.testing.assert_array_equal(cells.unpack(packed, bits, rows), codes)
