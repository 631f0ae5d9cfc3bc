"""The two forms of `compress bench`: calls by batch and length, and with --serving requests by number of streams.

A list or a number that is not given is the default of `Sweep` or `Streams`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from compressor.command import terminal
from compressor.errors import RequestError


class Measured(NamedTuple):
    """A table, the bars that a terminal shows below it, and plots for a page."""

    title: str
    rows: list[dict[str, Any]]
    bars: list[str]
    plots: list[str]


def calls(
    artifact: Path,
    against: str | None,
    provider: str,
    batches: Sequence[int],
    lengths: Sequence[int],
    repeats: int | None,
) -> Measured:
    """Latency and throughput, by batch and length; the rival takes turns."""
    from compressor import benchmark, rivals, sources
    from compressor.benchmark import Sweep
    from compressor.report import tables
    from compressor.stages import measuring

    ours = sources.open_input(artifact)
    sweep = Sweep(batches or Sweep.batches, lengths or Sweep.lengths, repeats or Sweep.repeats)
    with rivals.opened(against, ours, provider) as rival:
        points = benchmark.measure(measuring.sides(ours, rival, provider), sweep, terminal.progress())
    rows = benchmark.rows(points)
    return Measured(f"on {provider}", rows, tables.bars(rows), benchmark.plots(points))


def streams(
    artifact: Path,
    against: str | None,
    provider: str,
    counts: Sequence[int],
    lengths: Sequence[int],
    new_tokens: int | None,
) -> Measured:
    """Throughput, time to the first token and for each after it, by number of streams. Raises: RequestError."""
    from compressor import rivals
    from compressor.serve import streams as serving
    from compressor.serve.served import Served
    from compressor.serve.streams import Streams

    if against and against.startswith(rivals.BUILDER):
        raise RequestError(f"--against {against}: --serving has artifacts alone as rivals; name one")
    if provider != "cpu":
        raise RequestError(f"--provider {provider}: --serving measures on the cpu; leave it out")
    names = {"artifact": artifact} | ({"rival": Path(against)} if against else {})
    wanted = Streams(counts or Streams.counts, lengths or Streams.lengths, new_tokens or Streams.new_tokens)
    loads = serving.measure({name: Served.open(path) for name, path in names.items()}, wanted, terminal.progress())
    return Measured("by number of streams", serving.rows(loads), [], serving.plots(loads))
