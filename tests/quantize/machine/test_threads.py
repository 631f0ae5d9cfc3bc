from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from compressor.quantize.machine.threads import AT_ONCE, a_batch_each, at_once, in_order, one_thread


@pytest.fixture(params=[1, 3, 2 * AT_ONCE])
def threads(request: pytest.FixtureRequest) -> int:
    """So many of torch, as the fixture of all tests here puts back."""
    torch.set_num_threads(request.param)
    return int(request.param)


def test_the_threads_are_shared_out(threads: int) -> None:
    with a_batch_each():
        assert torch.get_num_threads() == max(1, threads // AT_ONCE)
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == threads
    assert at_once() == min(threads, AT_ONCE)


def test_work_is_handed_on_in_order_and_no_further_ahead_than_said() -> None:
    begun, lock = list[int](), threading.Lock()

    def work(index: int) -> None:
        with lock:
            begun.append(index)

    with ThreadPoolExecutor(2) as pool:
        for index in in_order(pool, work, 7, ahead=3):
            with lock:
                assert index in begun
                assert max(begun) < index + 3
    assert sorted(begun) == list(range(7))


def test_what_fails_is_told_when_its_turn_comes() -> None:
    def work(index: int) -> None:
        if index == 1:
            raise ArithmeticError("one")

    with ThreadPoolExecutor(2) as pool:
        work_on = in_order(pool, work, 3, ahead=3)
        assert next(work_on) == 0
        with pytest.raises(ArithmeticError, match="one"):
            next(work_on)
