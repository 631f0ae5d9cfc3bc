"""Who works when several threads could: rows too short to share get one, weights and batches one each."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch

# Weights or batches that are worked on at a time, a thread each: groups are too small for threads to share, and waited
# 50 times as long as they worked on cores that others used too. Each is held a few times over.
AT_ONCE = 4

Map = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]


def at_once() -> int:
    """How many weights or batches the threads of torch take."""
    return min(torch.get_num_threads(), AT_ONCE)


@contextmanager
def one_thread() -> Iterator[None]:
    """A row is too short to share: two threads would spend ten times as long waiting for each other (measured)."""
    with _threads(1):
        yield


@contextmanager
def a_weight_each() -> Iterator[ThreadPoolExecutor]:
    """Threads that take a weight at a time, as many as torch would share one among."""
    with ThreadPoolExecutor(at_once()) as pool, one_thread():
        yield pool


@contextmanager
def a_batch_each() -> Iterator[ThreadPoolExecutor]:
    """Threads that take a batch at a time; the cores are shared out among them."""
    several = at_once()
    with ThreadPoolExecutor(several) as pool, _threads(torch.get_num_threads() // several):
        yield pool


def in_order(pool: ThreadPoolExecutor, work: Callable[[int], None], count: int, ahead: int) -> Iterator[int]:
    """0, 1, ... as soon as each is worked on.

    ahead: that are begun at a time; enough that no thread idles, and no more, for who is given an index may have work
    for the pool too, that would stand behind them.
    """
    begun = deque[Future[None]]()
    for index in range(count):
        while len(begun) < ahead and index + len(begun) < count:
            begun.append(pool.submit(work, index + len(begun)))
        begun.popleft().result()
        yield index


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Operators of torch that begin now share themselves among so many."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
