from __future__ import annotations

import subprocess
import sys
import threading

import numpy as np
import pytest
import torch

from compressor.quantize.machine.memory import LARGE_PAGE, Scratch, copied, room
from tests.conftest import ROOT

# Pages that the system had to give for ten blocks of 40 MB, one freed before the next; before, meanwhile and after.
FAULTS = """
import contextlib, resource
from compressor.quantize.machine.memory import freed_memory_kept, keep_heap_small

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        block = bytearray(40 << 20)
        for page in range(0, len(block), 4096):
            block[page] = 1
        del block
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

keep_heap_small()
print(faults())
with freed_memory_kept():
    print(faults())
print(faults())
"""


@pytest.mark.parametrize("shape", [(0, 3), (3,), (LARGE_PAGE // 4, 2)])
def test_a_room_holds_zeros_and_what_is_put_there(shape: tuple[int, ...]) -> None:
    tensor = room(shape, torch.float32)
    assert tensor.shape == shape
    assert not tensor.any()
    assert torch.equal(tensor.add_(1), torch.ones(shape))


def test_scratch_is_used_again_unless_it_is_too_small() -> None:
    scratch = Scratch()
    first = scratch.take("x", (4, 4), torch.float32)
    assert scratch.take("x", (2, 2), torch.float32).data_ptr() == first.data_ptr()
    assert scratch.take("y", (2, 2), torch.float32).data_ptr() != first.data_ptr()
    larger = scratch.take("x", (64, 64), torch.float32).fill_(2)
    assert torch.equal(larger, torch.full((64, 64), 2.0))
    assert first.data_ptr() != larger.data_ptr()


def test_every_thread_has_rooms_of_its_own() -> None:
    scratch, seen = Scratch(), list[torch.Tensor]()
    mine = scratch.take("x", (4,), torch.float32).fill_(1)
    other = threading.Thread(target=lambda: seen.append(scratch.take("x", (4,), torch.float32).fill_(2)))
    other.start()
    other.join()
    assert (mine.tolist(), seen[0].tolist()) == ([1.0] * 4, [2.0] * 4)


def test_a_copy_takes_the_place_of_one_that_is_done_and_as_large() -> None:
    done = [np.zeros(3, np.float32), np.zeros((2, 2), np.float32), np.zeros((2, 2), np.float32)]
    places = [one.ctypes.data for one in done]
    values = [np.full((2, 2), n, np.float32) for n in (1, 2, 3)]
    copies = [copied(value, done) for value in values]
    assert [copy.ctypes.data for copy in copies[:2]] == places[1:]
    assert copies[2].ctypes.data not in places
    assert [copy.max() for copy in copies] == [1, 2, 3]
    assert len(done) == 1  # of another shape


@pytest.mark.skipif(sys.platform != "linux", reason="glibc is asked")
def test_what_follows_takes_the_room_of_what_was_freed() -> None:
    """In an interpreter of its own: how a heap was asked to behave stays with it."""
    asked = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True, cwd=ROOT)
    plain, kept, after = map(int, asked.stdout.split())
    assert kept * 4 < plain
    assert kept * 4 < after
