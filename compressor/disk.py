"""Files on their way to the disk: hashed, flushed, and JSON whose bytes are those of its value."""

from __future__ import annotations

import ctypes
import hashlib
import json
import mmap
import os
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

WINDOW = 1 << 26  # bytes of a file that are mapped at a time
FILES_AT_ONCE = 4  # hashed and flushed: two cores hash while two files are on their way to the disk
SYNC_FILE_RANGE_WRITE = 2  # of Linux: begin, and do not wait


def digest(path: Path) -> str:
    """SHA-256 of a file, a window at a time: mapped, for that spares a copy, and seldom asking for Python's lock."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        for start in range(0, size, WINDOW):
            with mmap.mmap(file.fileno(), min(WINDOW, size - start), access=mmap.ACCESS_READ, offset=start) as window:
                found.update(window)
    return found.hexdigest()


def flushed(paths: Iterable[Path]) -> dict[Path, str]:
    """SHA-256 of each file, sorted; all of them on the disk, where some go while others are hashed."""
    ordered = sorted(paths)
    with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        work = [(pool.submit(digest, path), pool.submit(flush, path)) for path in ordered]
        for _, done in work:
            done.result()
        return {path: hashed.result() for path, (hashed, _) in zip(ordered, work, strict=True)}


def flush(path: Path) -> None:
    """Wait until a file is on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def begin_flush(path: Path) -> None:
    """Let the disk begin with a finished file and wait for nothing: what follows computes while it is written.

    Without this Linux begins when the artifact is flushed, and all has to wait. Elsewhere it is not known how.
    """
    if sys.platform == "linux":
        with path.open("rb") as file:
            whole = ctypes.c_int64(0)
            ctypes.CDLL(None).sync_file_range(file.fileno(), whole, whole, SYNC_FILE_RANGE_WRITE)


def write_json(path: Path, value: Any) -> None:
    """JSON with sorted keys and a final newline: equal values are equal bytes."""
    path.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
