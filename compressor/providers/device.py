"""The CUDA device's memory, asked of the CUDA runtime that ONNX Runtime uses; None where there is none."""

from __future__ import annotations

import ctypes

RUNTIME = "libcudart.so.13"


def memory() -> tuple[int, int] | None:
    """Free and total bytes of the first device."""
    try:
        runtime = ctypes.CDLL(RUNTIME)
    except OSError:
        return None
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    failed = runtime.cudaMemGetInfo(ctypes.byref(free), ctypes.byref(total))
    return None if failed else (free.value, total.value)


def used_bytes() -> int | None:
    """Bytes of the first device that anybody holds."""
    found = memory()
    return found[1] - found[0] if found else None
