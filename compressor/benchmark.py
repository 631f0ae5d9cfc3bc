"""`compress bench`: how fast an artifact answers, by batch and length, and its rival beside it.

    decoder    prefill of `length` tokens, and one more token on a cache of that length, for each batch
    any other  one call; the first axis of every input is the batch, its other free axes have `length`

Artifact and rival take turns at each point, so that another load on the machine meets both; a call before them warms.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compressor.disk import write_json
from compressor.errors import RequestError, in_a_line
from compressor.graph import probe
from compressor.progress import Track, identity
from compressor.report import charts
from compressor.validate.latency import lap
from compressor.validate.subject import Subject

Call = Callable[[], object]


@dataclass(frozen=True)
class Sweep:
    """The points that are measured: every batch with every length."""

    batches: Sequence[int] = (1, 4)
    lengths: Sequence[int] = (32, 128)
    repeats: int = 10


@dataclass(frozen=True)
class Point:
    """One side at one point: milliseconds a call, and what it gets through in a second."""

    side: str
    part: str
    batch: int
    length: int
    median_ms: float
    p95_ms: float
    per_second: float  # tokens of a decoder, rows of any other graph


def measure(graphs: Mapping[str, Mapping[str, Subject]], sweep: Sweep, track: Track = identity) -> list[Point]:
    """Every side of every graph at every point; the part of a point names its graph, where there are several.

    Raises: RequestError when an artifact does not run at a point.
    """
    points: list[Point] = []
    places = [(graph, batch, length) for graph in graphs for batch in sweep.batches for length in sweep.lengths]
    for graph, batch, length in track(places, "bench"):
        calls = {name: _calls(side, batch, length) for name, side in graphs[graph].items()}
        for part in next(iter(calls.values())):
            taken = _in_turns({name: own[part] for name, own in calls.items()}, sweep.repeats)
            title = f"{graph} {part}".strip()
            points += [_point(name, title, batch, length, found) for name, found in taken.items()]
    return points


def rows(points: Sequence[Point]) -> list[dict[str, Any]]:
    """Points as a table, with the ratio to the rival where there is one."""
    found = [asdict(point) for point in points]
    if len({point.side for point in points}) > 1:
        ours = {(p.part, p.batch, p.length): p.median_ms for p in points if p.side == points[0].side}
        for row, point in zip(found, points, strict=True):
            row["artifact is faster by"] = point.median_ms / ours[point.part, point.batch, point.length]
    return found


def plots(points: Sequence[Point]) -> list[str]:
    """A line chart for each part: milliseconds over length, one line a side and batch."""
    found = []
    for part in dict.fromkeys(point.part for point in points):
        series: dict[str, list[tuple[float, float]]] = {}
        for point in points:
            if point.part == part:
                series.setdefault(f"{point.side}, batch {point.batch}", []).append((point.length, point.median_ms))
        found.append(charts.lines(f"{part}: median latency", series, x="length", y="ms"))
    return found


def write(folder: Path, table: Sequence[dict[str, Any]], charts_: Sequence[str]) -> None:
    """bench.json for machines, bench.html with the plots for people."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "bench.json", table)
    page = f"<!doctype html><meta charset=utf-8><title>compress bench</title>{''.join(charts_)}\n"
    (folder / "bench.html").write_text(page, encoding="utf-8")


def _calls(side: Subject, batch: int, length: int) -> dict[str, Call]:
    if side.decoder is None:
        feeds = probe.made_up(side.model, (batch, length), seed=0)
        session = side.served
        return {"call": _checked(side, batch, length, lambda: session.run(None, feeds))}
    runner = side.runner(served=True)
    ids: NDArray[np.int64] = np.random.default_rng(0).integers(0, side.decoder.vocab, (batch, length))
    prefill = _checked(side, batch, length, lambda: runner.step(ids))
    _, past = runner.step(ids)
    return {"prefill": prefill, "decode": lambda: runner.step(ids[:, -1:], past=past)}


def _checked(side: Subject, batch: int, length: int, call: Call) -> Call:
    """The same call, once it has been seen to run."""
    try:
        call()
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        raise RequestError(
            f"{side.path}: does not run at batch {batch}, length {length} ({in_a_line(error)}); "
            "choose --batch and --length anew"
        ) from None
    return call


def _in_turns(calls: dict[str, Call], repeats: int) -> dict[str, list[float]]:
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            taken[name].append(lap(call))
    return taken


def _point(side: str, part: str, batch: int, length: int, milliseconds: list[float]) -> Point:
    median = statistics.median(milliseconds)
    work = batch * (length if part == "prefill" else 1)
    return Point(side, part, batch, length, median, float(np.percentile(milliseconds, 95)), 1e3 * work / median)
