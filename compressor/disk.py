"""Files on their way to the disk: hashed, flushed, and JSON whose bytes are those of its value."""

from __future__ import annotations

import ctypes
import hashlib
import json
import mmap
import os
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from blake3 import blake3

if TYPE_CHECKING:
    from numpy.typing import NDArray

WINDOW = 1 << 26  # bytes of a file that are mapped at a time
FILES_AT_ONCE = 4  # hashed and flushed: two cores hash while two files are on their way to the disk
# Bytes that are written at a time. Linux gives a write of 2 MB a page of 2 MB, and has to look for it: 360 MB take 1 s
# so, and 0.08 s by pieces (ext4, 6.18, a virtual machine).
PIECE = 1 << 20
SYNC_FILE_RANGE_WRITE = 2  # of Linux: begin, and do not wait


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return _hashed(path, hashlib.sha256())


def fingerprint(path: Path) -> str:
    """BLAKE3 of a file, by all cores: to know it again, in a third of the time that others' SHA-256 would take."""
    return _hashed(path, blake3(max_threads=blake3.AUTO))


def _hashed(path: Path, found: hashlib._Hash | blake3) -> str:
    """A file's windows are mapped, which spares a copy, one after another, which spares memory."""
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


def write(file: IO[bytes], array: NDArray[Any]) -> None:
    """The bytes of an array, a piece at a time."""
    for piece in pieces(array):
        file.write(piece)


def pieces(array: NDArray[Any]) -> Iterator[memoryview]:
    """The bytes of an array in parts that are written fast, each by itself."""
    content = array.reshape(-1).view("u1").data
    for start in range(0, len(content), PIECE):
        yield content[start : start + PIECE]


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
