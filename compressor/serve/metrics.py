"""What a server counts and times, in Prometheus' text format.

https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import bisect
import threading
from collections import Counter
from collections.abc import Iterator, Sequence

from compressor.serve.backend import Usage

PREFIX = "compress"
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
ROWS = (1, 2, 4, 8, 16, 32, 64)


class Histogram:
    """Counts of values up to each bound."""

    def __init__(self, name: str, text: str, bounds: Sequence[float]) -> None:
        self.name, self.text, self.bounds = name, text, bounds
        self.counts, self.sum = [0] * (len(bounds) + 1), 0.0

    def add(self, value: float) -> None:
        self.counts[bisect.bisect_left(self.bounds, value)] += 1
        self.sum += value

    def lines(self) -> Iterator[str]:
        name = f"{PREFIX}_{self.name}"
        yield from (f"# HELP {name} {self.text}", f"# TYPE {name} histogram")
        below = 0
        for bound, count in zip((*self.bounds, "+Inf"), self.counts, strict=True):
            below += count
            yield f'{name}_bucket{{le="{bound}"}} {below}'
        yield from (f"{name}_sum {self.sum:.6f}", f"{name}_count {below}")


class Metrics:
    """Written by the backend's thread and by the server's; each change is one short lock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.finished: Counter[str] = Counter()
        self.generated = 0
        self.rows_before = 0
        self.first_token = Histogram("time_to_first_token_seconds", "from a request's arrival", SECONDS)
        self.each_token = Histogram("time_per_output_token_seconds", "after the first, mean of a request", SECONDS)
        self.step = Histogram("step_seconds", "one call of the model", SECONDS)
        self.batch = Histogram("batch_size", "requests that a call gave a token", ROWS)

    def stepped(self, usage: Usage, seconds: float) -> None:
        """A step of the backend is over."""
        with self._lock:
            self.step.add(seconds)
            self.batch.add(usage.tally.rows - self.rows_before)
            self.rows_before = usage.tally.rows

    def ended(self, finish: str, tokens: int, to_first: float | None, after: float) -> None:
        """A request is over: seconds to its first token, and from there to its last."""
        with self._lock:
            self.finished[finish] += 1
            self.generated += tokens
            if to_first is not None:
                self.first_token.add(to_first)
            if tokens > 1:
                self.each_token.add(after / (tokens - 1))

    def text(self, usage: Usage) -> str:
        """Everything, for a scrape."""
        gauges = {
            "requests_running": ("requests in the batch", usage.running),
            "requests_waiting": ("requests in the queue", usage.waiting),
            "cache_blocks": ("blocks of the pool", usage.total_blocks),
            "cache_blocks_used": ("blocks that a request holds", usage.used_blocks),
            "cache_blocks_free": ("blocks that none holds", usage.free_blocks),
        }
        tally = usage.tally
        counters = {
            "prompt_tokens": ("of all requests", tally.prompt_tokens),
            "cached_prompt_tokens": ("of those, found in blocks", tally.cached_tokens),
            "generated_tokens": ("delivered", self.generated),
            "preemptions": ("requests sent back to the queue", tally.preemptions),
        }
        with self._lock:
            lines = [line for name, (text, value) in gauges.items() for line in _plain(name, text, "gauge", value)]
            lines += [
                line
                for name, (text, value) in counters.items()
                for line in _plain(f"{name}_total", text, "counter", value)
            ]
            name = f"{PREFIX}_requests_total"
            lines += [f"# HELP {name} by how they ended", f"# TYPE {name} counter"]
            lines += [f'{name}{{finish="{finish}"}} {count}' for finish, count in sorted(self.finished.items())]
            for histogram in (self.first_token, self.each_token, self.step, self.batch):
                lines += histogram.lines()
        return "\n".join(lines) + "\n"


def _plain(name: str, text: str, kind: str, value: float) -> tuple[str, str, str]:
    full = f"{PREFIX}_{name}"
    return f"# HELP {full} {text}", f"# TYPE {full} {kind}", f"{full} {value}"
