"""A file's hash is that of its bytes, whatever the window it is read through; what is written is
the array, in small pieces."""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from blake3 import blake3

from compressor import disk


@pytest.mark.parametrize(("hashed", "known"), [(disk.digest, hashlib.sha256), (disk.fingerprint, blake3)])
@pytest.mark.parametrize("extra", [-1, 0, 1])
@pytest.mark.parametrize("windows", [0, 1, 3])
def test_a_hash_is_that_of_the_whole_file(
    windows: int,
    extra: int,
    hashed: Callable[[Path], str],
    known: Callable[[bytes], Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(disk, "WINDOW", mmap.ALLOCATIONGRANULARITY)
    content = os.urandom(max(windows * mmap.ALLOCATIONGRANULARITY + extra, 0))
    (tmp_path / "file").write_bytes(content)
    assert hashed(tmp_path / "file") == known(content).hexdigest()


@pytest.mark.parametrize("shape", [(), (0, 3), (5,), (3, 40), (7, 1, 33)])
def test_an_array_is_written_whole_and_in_pieces(
    shape: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "PIECE", 100)
    array = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    with (tmp_path / "file").open("wb") as file:
        disk.write(file, array.T)
    assert (tmp_path / "file").read_bytes() == array.T.tobytes()
    assert all(len(piece) <= 100 for piece in disk.pieces(array))
