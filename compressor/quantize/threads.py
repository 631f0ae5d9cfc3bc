"""Who works when several threads could: rows too short to share get one, weights one each."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch

# Weights that are worked on at a time, a thread each: groups are too small for threads to share, and waited 50 times as
# long as they worked on cores that others used too. Each holds its weight a few times over.
AT_ONCE = 4


@contextmanager
def one_thread() -> Iterator[None]:
    """A row is too short to share: two threads would spend ten times as long waiting for each other (measured)."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def a_weight_each() -> Iterator[ThreadPoolExecutor]:
    """Threads that take a weight at a time, as many as torch would share one among."""
    with ThreadPoolExecutor(min(torch.get_num_threads(), AT_ONCE)) as pool, one_thread():
        yield pool
