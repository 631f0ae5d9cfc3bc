"""Better or worse than last time: a report beside the last good one, measurement by measurement.

    worse by    how far a number moved against its sense, relative to the baseline's: 0.1 is 10 % worse
    limit       what the kind of number may move without a cause: times do, sizes and probabilities do not

A number that the baseline lacks is compared with nothing; one that the report lacks is a missed limit.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from compressor.errors import RequestError, in_a_line
from compressor.report.report import Measurement, Report

# Medians of one machine move by a fifth when another job runs beside; 95th percentiles and openings by more.
TIMED, TAIL = 0.25, 1.0
EXACT = 0.01  # sums in another order, another version of a library
NEAR_ZERO = 1e-6  # a difference of logits this small is the same
TIME_UNITS = ("ms", "s", "tokens/s", "rows/s")
Earlier = Mapping[str, Mapping[str, Any]]  # the rows of a report by name
UNCOMPARED = ("session opened in", "device memory")  # of the machine's day, not of the artifact


def read(path: Path) -> Earlier:
    """Measurements of a report.json by name. Raises: RequestError when it is none."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["measurements"]
        return {row["name"]: row for row in rows}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RequestError(
            f"{path}: no report.json of compress ({in_a_line(error)}); a run's output folder holds one"
        ) from None


def judged(report: Report, earlier: Earlier) -> Report:
    """The report with what moved among its measurements; a move beyond its limit is a miss like any other."""
    return replace(report, measurements=(*report.measurements, *compare(report, earlier)))


def compare(report: Report, earlier: Earlier) -> list[Measurement]:
    """What moved, each with the limit of its kind."""
    now = {one.name: one for one in report.measurements}
    found = [_moved(now[name], row) for name, row in earlier.items() if name in now and _is_compared(name, row)]
    return [*found, *_lost(now, earlier)]


def _moved(one: Measurement, row: Mapping[str, Any]) -> Measurement:
    before = float(row["value"])
    change = one.value - before if one.sense == "at most" else before - one.value
    if not math.isfinite(before):  # it cannot get worse than it was
        worse = 0.0
    else:
        worse = 0.0 if abs(change) <= NEAR_ZERO else change / max(abs(before), NEAR_ZERO)
    limit = TAIL if "p95" in one.name else TIMED if one.unit in TIME_UNITS or "ratio" in one.name else EXACT
    return Measurement(f"{one.name} worse by", worse, reference=before, limit=limit, note="against the baseline")


def _lost(now: Mapping[str, Measurement], earlier: Earlier) -> Iterator[Measurement]:
    for name, row in earlier.items():
        if name not in now and _is_compared(name, row):
            yield Measurement(f"{name} measured", 0, limit=1, sense="at least", note="the baseline has it")


def _is_compared(name: str, row: Mapping[str, Any]) -> bool:
    """A comparison is not compared again, when a report that had a baseline is the baseline of the next."""
    return name not in UNCOMPARED and row.get("note") not in ("against the baseline", "the baseline has it")
