"""Where the time of a quantization goes: its parts by the clock and by the processor, beside what the machine can do.

    parts = Parts()
    parts.follow("statistics", SecondMoment, "add", flops=...)      # every call of it, from now on
    parts.report()       ->  {"statistics": {"seconds": 2.1, "processor_seconds": 3.9, "calls": 768, ...}, ...}
    speeds()             ->  {"matmul_float32_gflops": 320, "matmul_bfloat16_gflops": 2280, "copy_gb_per_second": 10}

A part that is called by another part takes its time out of the other's. Threads are followed each by itself and their
times added up: where several work at a time, so do the parts, and their seconds are more than the run's.
"""

import functools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

SIDE = 2048  # of the matrices that a machine is measured with: the widest input of the benchmark's model
COPIED_BYTES = 1 << 28  # more than any cache holds
TRIES = 5


@dataclass
class Part:
    """What the calls of one part took."""

    seconds: float = 0.0
    processor_seconds: float = 0.0
    calls: int = 0
    flops: float = 0.0

    def report(self) -> dict[str, float]:
        """gflops: a second of the clock, where what a call computes was counted."""
        times = {"seconds": round(self.seconds, 3), "processor_seconds": round(self.processor_seconds, 3)}
        rate = {"gflops": round(self.flops / self.seconds / 1e9, 1)} if self.flops else {}
        return times | {"calls": self.calls} | rate


class _Thread(threading.local):
    """The parts that a thread is in, the innermost last, and since when it has been there."""

    def __init__(self) -> None:
        self.running: list[Part] = []
        self.since = (0.0, 0.0)

    def turn(self) -> None:
        """Give the time since the last turn to the part that has run."""
        now = time.perf_counter(), time.thread_time()
        if self.running:
            self.running[-1].seconds += now[0] - self.since[0]
            self.running[-1].processor_seconds += now[1] - self.since[1]
        self.since = now


@dataclass
class Parts:
    """The parts of a run, by name."""

    parts: dict[str, Part] = field(default_factory=dict)
    thread: _Thread = field(default_factory=_Thread)

    def follow(self, name: str, owner: Any, function: str, flops: Callable[..., float] | None = None) -> None:
        """Let every call of `owner.function` count for a part. flops: of a call, by what it is given."""
        part, plain = self.parts.setdefault(name, Part()), getattr(owner, function)

        @functools.wraps(plain)
        def followed(*given: Any, **options: Any) -> Any:
            self.thread.turn()
            self.thread.running.append(part)
            try:
                return plain(*given, **options)
            finally:
                self.thread.turn()
                self.thread.running.pop()
                part.calls += 1
                part.flops += flops(*given) if flops else 0.0

        setattr(owner, function, followed)

    def report(self) -> dict[str, dict[str, float]]:
        return {name: part.report() for name, part in self.parts.items()}


def speeds() -> dict[str, float]:
    """The machine's matrix products and copies, the best of a few."""
    import torch

    found = {"threads": float(torch.get_num_threads())}
    for dtype in (torch.float32, torch.bfloat16):
        left, right = (torch.randn(SIDE, SIDE).to(dtype) for _ in range(2))
        seconds = _least(lambda left=left, right=right: left @ right)  # type: ignore[misc]
        found[f"matmul_{str(dtype).removeprefix('torch.')}_gflops"] = round(2 * SIDE**3 / seconds / 1e9, 1)
    source = torch.zeros(COPIED_BYTES, dtype=torch.uint8)
    target = torch.empty_like(source)
    found["copy_gb_per_second"] = round(COPIED_BYTES / _least(lambda: target.copy_(source)) / 1e9, 2)
    return found


def _least(work: Any) -> float:
    def once() -> float:
        begin = time.perf_counter()
        work()
        return time.perf_counter() - begin

    return min(once() for _ in range(TRIES))
