"""fused.c as a library for this processor: half a second of a compiler, during which torch may be imported.

begin()      starts the compiler, the first time it is asked
library()    waits for what it makes; None where there is no compiler, or one without headers or these flags
"""

from __future__ import annotations

import ctypes
import functools
import shutil
import subprocess
import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

SOURCE = Path(__file__).with_name("fused.c")
COMPILERS = ("cc", "gcc", "clang")
# No contraction: torch rounds a product before it adds. No errno or trap, which stand in the way of vectors.
FLAGS = ("-O3", "-march=native", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")
LIMIT_SECONDS = 30
# Weights from which on the half second is won back.
WORTH_SOLVED, WORTH_ROUNDED = 1 << 23, 1 << 27


@functools.cache
def begin() -> Future[ctypes.CDLL | None]:
    """Start the compiler in a thread of its own."""
    pool = ThreadPoolExecutor(1)
    try:
        return pool.submit(_compile)
    finally:
        pool.shutdown(wait=False)


def library() -> ctypes.CDLL | None:
    """The functions of fused.c, as soon as they are compiled."""
    return begin().result()


def _compile() -> ctypes.CDLL | None:
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory(prefix="compress-") as folder:
        path = Path(folder) / "fused.so"
        try:
            command = [compiler, *FLAGS, "-o", str(path), str(SOURCE), "-lm"]
            subprocess.run(command, check=True, capture_output=True, timeout=LIMIT_SECONDS)
            return ctypes.CDLL(str(path))
        except (OSError, subprocess.SubprocessError):
            return None
