"""One run of a peer, timed lap by lap; it ends in one line of JSON, the last of its standard output.

    laps = Laps()
    with laps("load"): ...
    with laps("quantize"): ...      # the resident set right before it is the baseline
    with laps("save"): ...
    laps.report("torch", "gptqmodel")
    ->  {"load_seconds": 1.2, ..., "total_seconds": 61.5, "peak_rss_bytes": ..., "baseline_rss_bytes": ..., ...}

Standard library only: it runs in the Python of every peer.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any


class Laps:
    """total_seconds is the sum of the laps: interpreter start and imports are nobody's algorithm."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.baseline_rss_bytes = 0

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        if name == "quantize":
            self.baseline_rss_bytes = resident_bytes("VmRSS")
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start

    def report(self, *packages: str, **more: Any) -> None:
        """Print the document; the versions are those of the named packages."""
        document = {f"{name}_seconds": round(seconds, 3) for name, seconds in self.seconds.items()} | {
            "total_seconds": round(sum(self.seconds.values()), 3),
            "peak_rss_bytes": resident_bytes("VmHWM"),
            "baseline_rss_bytes": self.baseline_rss_bytes,
            "versions": {package: version(package) for package in packages},
        }
        print(json.dumps(document | more), flush=True)


def resident_bytes(field: str) -> int:
    """VmRSS (now) or VmHWM (peak) of this process.

    Not `getrusage().ru_maxrss`: a child inherits that from the process that forked it, so a driver of 1 GB would put
    1 GB under every peer's peak.
    """
    status = Path("/proc/self/status").read_text()
    kibibytes = next(line for line in status.splitlines() if line.startswith(f"{field}:")).split()[1]
    return 1024 * int(kibibytes)
