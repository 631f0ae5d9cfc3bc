"""A file's hash is that of its bytes, whatever the window it is read through."""

from __future__ import annotations

import hashlib
import mmap
import os
from pathlib import Path

import pytest

from compressor import disk


@pytest.mark.parametrize("extra", [-1, 0, 1])
@pytest.mark.parametrize("windows", [0, 1, 3])
def test_a_digest_is_that_of_the_whole_file(
    windows: int, extra: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "WINDOW", mmap.ALLOCATIONGRANULARITY)
    content = os.urandom(max(windows * mmap.ALLOCATIONGRANULARITY + extra, 0))
    (tmp_path / "file").write_bytes(content)
    assert disk.digest(tmp_path / "file") == hashlib.sha256(content).hexdigest()
