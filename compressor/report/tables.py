"""What the command line shows of values, rows and artifacts, as text. Nothing is printed here."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compressor.artifact import Artifact
    from compressor.providers.copies import Copy

BAR_WIDTH = 60  # characters of the longest bar
# The columns of a stage's table that a reader wants; --json has them all.
BRIEF = ("graph", "case", "output", "difference", "largest_expected", "layer", "name", "nodes_before", "nodes_after",
         "seconds", "worst_difference", "bits_per_weight", "error", "rounding_error", "weight_error", "rolled_back",
         "fallback", "flags")  # fmt: skip


def number(value: float, unit: str = "") -> str:
    """A number as a reader wants it: 1,234 | 12.346 | 0.0012346; bytes in MB."""
    if unit == "bytes":
        return f"{value / 1e6:.2f} MB"
    if not math.isfinite(value):
        return str(value)
    text = f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.5g}"
    return f"{text} {unit}".strip()


def cell(value: Any) -> str:
    """A value in a table: numbers short, nothing for None."""
    if isinstance(value, bool) or value is None:
        return "" if value is None else str(value).lower()
    return number(value) if isinstance(value, (int, float)) else str(value)


def lines_of(value: Any) -> str:
    """A value that may hold others, a line each."""
    if isinstance(value, dict):
        return "\n".join(f"{name}: {lines_of(one)}" for name, one in value.items())
    return "\n".join(map(lines_of, value)) if isinstance(value, list) else cell(value)


def columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What any of the rows has, in the order in which it first comes."""
    return list(dict.fromkeys(name for row in rows for name in row))


def plain(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Rows under their columns' names, as wide as they are; a cell of several lines takes as many."""
    names = columns(rows)
    cells = [[[name] for name in names], *([cell(row.get(name)).split("\n") for name in names] for row in rows)]
    widths = [max(len(line) for one in column for line in one) for column in zip(*cells, strict=True)]
    return [
        "  ".join(part.ljust(width) for part, width in zip(line, widths, strict=True)).rstrip()
        for row in cells
        for line in itertools.zip_longest(*row, fillvalue="")
    ]


def brief(row: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of `BRIEF` that a row has."""
    return {name: row[name] for name in BRIEF if name in row}


def refusals(made: Artifact) -> list[dict[str, Any]]:
    """The last word of each pass on its near matches."""
    last = {row["name"]: row["refusals"] for row in made.measured().get("passes", ())}
    return [{"pass": name, "left alone, and why": line} for name, lines in last.items() for line in lines]


def crossing(copy: Copy) -> dict[str, Any]:
    """A copy between devices, with the first of those it is for."""
    readers = ", ".join(copy.readers[:2]) + (f" and {len(copy.readers) - 2} more" if len(copy.readers) > 2 else "")
    return {"value": copy.value, "copied": copy.direction, "from": copy.maker, "for": readers, "bytes": copy.nbytes}


def bars(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A bar for each point of a benchmark, as wide as its median."""
    most = max(row["median_ms"] for row in rows)
    return [
        f"{row['part']} {row['batch']}x{row['length']} {row['side']}".ljust(32)
        + f" {'#' * max(1, round(BAR_WIDTH * row['median_ms'] / most))} {row['median_ms']:.3g} ms"
        for row in rows
    ]
