"""Memory that goes back to the system the moment nobody looks at it, where the heap would keep a hole.

A fresh page costs more than to fill it (5 us for 4 KB in a virtual machine), so what is as large as what it follows
takes its place, what is needed for a moment uses the same room again, and large rooms ask for large pages.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

LARGE_PAGE = 1 << 21
LARGE_BLOCK = 1 << 22
KEPT = 1 << 30
TRIM_THRESHOLD, MMAP_THRESHOLD, ARENA_MAX = -1, -3, -8  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX of malloc.h


def mapped(nbytes: int) -> mmap.mmap:
    """Memory by itself, outside of the heap."""
    memory = mmap.mmap(-1, nbytes, access=mmap.ACCESS_COPY)
    if nbytes >= LARGE_PAGE and hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def room(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A tensor on the CPU that holds zeros, in memory by itself."""
    return _tensor(mapped(max(1, math.prod(shape) * dtype.itemsize)), shape, dtype)


def copied(value: NDArray[Any], done: list[NDArray[Any]]) -> NDArray[Any]:
    """A value that ONNX Runtime made, out of its session's arena: that is twice as large and would live as long.

    It takes the place of one of the copies that are `done`, where one is as large.
    """
    if not isinstance(value, np.ndarray) or value.dtype.hasobject or not value.size:  # a sequence, strings, nothing
        return value
    alike = [index for index, one in enumerate(done) if _alike(one, value)]
    copy = done.pop(alike[0]) if alike else np.frombuffer(mapped(value.nbytes), value.dtype).reshape(value.shape)
    copy[...] = value
    return copy


class Scratch(threading.local):
    """Rooms that a thread uses again and again, each by its name: what one held is gone when it is taken anew."""

    def __init__(self) -> None:
        self._rooms: dict[str, mmap.mmap] = {}

    def take(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Room for a moment; what it holds is whatever was there before."""
        nbytes = max(1, math.prod(shape) * dtype.itemsize)
        held = self._rooms.get(name)
        if held is None or len(held) < nbytes:
            held = self._rooms[name] = mapped(nbytes)
        return _tensor(held, shape, dtype)


def keep_heap_small() -> None:
    """One heap for all threads; large blocks come from the system and go back to it, and no more than one is kept.

    By itself glibc gives threads heaps of their own, raises the limit to the largest block that was ever freed, and
    keeps twice as much at the end of each heap: 545 MB for 492, with 512 tokens a batch and 2048 inputs.
    """
    if tune := _of_glibc("mallopt"):
        tune(ARENA_MAX, 1)
        tune(MMAP_THRESHOLD, LARGE_BLOCK)
        tune(TRIM_THRESHOLD, LARGE_BLOCK)


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Where one weight follows another, it takes the room of the one before, and the system is asked for nothing.

    Rounding 2.2 GiB so takes 120,000 pages of the system instead of 400,000. Afterwards the heap is kept small.
    """
    if tune := _of_glibc("mallopt"):
        tune(ARENA_MAX, 1)
        tune(MMAP_THRESHOLD, KEPT)
        tune(TRIM_THRESHOLD, KEPT)
    try:
        yield
    finally:
        keep_heap_small()
        return_free_memory()


def return_free_memory() -> None:
    """glibc keeps what is freed between blocks in use; a solve of 2048 inputs left 200 MB of such holes."""
    if trim := _of_glibc("malloc_trim"):
        trim(0)


def _of_glibc(name: str) -> Callable[..., int] | None:
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None


def _tensor(memory: mmap.mmap, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    count = math.prod(shape)
    return torch.frombuffer(memory, dtype=dtype, count=count).view(shape) if count else torch.empty(shape, dtype=dtype)


def _alike(copy: NDArray[Any], value: NDArray[Any]) -> bool:
    return isinstance(copy, np.ndarray) and (copy.dtype, copy.shape) == (value.dtype, value.shape)
