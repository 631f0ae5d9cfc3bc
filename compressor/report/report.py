"""A report is data: numbers, their limits, and the verdict that follows; tables are drawn from it elsewhere.

Measurement("perplexity", 4.02, "", limit=4.10, sense="at most")  ->  passed
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from compressor.report.tables import columns, number

Sense = Literal["at most", "at least"]


@dataclass(frozen=True)
class Measurement:
    """One number of the candidate, what the reference has, and the limit that makes it a verdict."""

    name: str
    value: float
    unit: str = ""
    reference: float | None = None
    limit: float | None = None
    sense: Sense = "at most"
    note: str = ""

    @property
    def passed(self) -> bool:
        """True without a limit; a value that is not finite never passes one."""
        if self.limit is None:
            return True
        if not math.isfinite(self.value):
            return False
        return self.value <= self.limit if self.sense == "at most" else self.value >= self.limit

    def row(self) -> dict[str, Any]:
        """JSON form; a number that is not finite is written as text, for JSON has none."""
        cells = asdict(self) | {"passed": self.passed}
        return {name: str(v) if isinstance(v, float) and not math.isfinite(v) else v for name, v in cells.items()}


@dataclass(frozen=True)
class Report:
    """All that a run learned: measurements, and the stages' own tables as they wrote them."""

    measurements: tuple[Measurement, ...]
    fallbacks: tuple[str, ...] = ()
    stages: tuple[Mapping[str, Any], ...] = ()
    passes: tuple[Mapping[str, Any], ...] = ()
    layers: tuple[Mapping[str, Any], ...] = ()
    tradeoff: tuple[Mapping[str, Any], ...] = ()
    placement: tuple[Mapping[str, Any], ...] = ()  # an overview for each graph
    left_alone: Mapping[str, str] = field(default_factory=dict)  # weights that were not quantized, and why
    left_bytes: Mapping[str, int] = field(default_factory=dict)  # what they take
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def missed(self) -> tuple[Measurement, ...]:
        return tuple(one for one in self.measurements if not one.passed)

    def verdict(self, *, strict: bool) -> str:
        """`passed`, or why not: a missed limit; under `strict` a fallback as well."""
        if self.missed:
            return f"missed {', '.join(one.name for one in self.missed)}"
        return f"fell back {len(self.fallbacks)} times" if strict and self.fallbacks else "passed"

    def to_json(self, *, strict: bool) -> dict[str, Any]:
        return {
            "verdict": self.verdict(strict=strict),
            "measurements": [one.row() for one in self.measurements],
            "fallbacks": list(self.fallbacks),
            "stages": list(self.stages),
            "passes": list(self.passes),
            "layers": list(self.layers),
            "tradeoff": list(self.tradeoff),
            "placement": list(self.placement),
            "left_alone": dict(self.left_alone),
            "left_bytes": dict(self.left_bytes),
            "facts": dict(self.facts),
        }

    def to_markdown(self, *, strict: bool) -> str:
        """The report for a reader: verdict, measurements, fallbacks, passes, layers, stages."""
        blocks = [
            f"# Report: {self.verdict(strict=strict)}",
            _facts(self.facts),
            _table(measurement_rows(self.measurements)),
        ]
        if self.fallbacks:
            blocks.append("## Fallbacks\n\n" + "\n".join(f"- {one}" for one in self.fallbacks))
        tables = {"Passes": self.passes, "Trade-off": self.tradeoff, "Layers": self.layers}
        tables |= {"Left alone": left_alone_rows(self.left_alone, self.left_bytes), "Stages": self.stages}
        for title, rows in tables.items():
            if rows:
                blocks.append(f"## {title}\n\n{_table(rows)}")
        return "\n\n".join(block for block in blocks if block) + "\n"


def left_alone_rows(left_alone: Mapping[str, str], left_bytes: Mapping[str, int]) -> tuple[Mapping[str, Any], ...]:
    """What was not quantized as a table's rows, with its bytes where it is a weight."""
    return tuple({"layer": name, "bytes": left_bytes.get(name), "why": why} for name, why in left_alone.items())


def measurement_rows(measurements: Sequence[Measurement]) -> list[dict[str, str]]:
    """Measurements as a table's rows, each number with its unit and its verdict."""
    return [
        {
            "measurement": one.name,
            "value": number(one.value, one.unit),
            "reference": "" if one.reference is None else number(one.reference, one.unit),
            "limit": "" if one.limit is None else f"{one.sense} {number(one.limit, one.unit)}",
            "verdict": "" if one.limit is None else ("passed" if one.passed else "MISSED"),
            "note": one.note,
        }
        for one in measurements
    ]


def _facts(facts: Mapping[str, Any]) -> str:
    return "\n".join(f"- {name}: {value}" for name, value in facts.items())


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    names = columns(rows)
    lines = [names, ["---"] * len(names)]
    lines += [[_cell(row.get(name)) for name in names] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return number(value)
    if isinstance(value, (list, tuple)):
        return "; ".join(_cell(one) for one in value)
    return str(value).replace("|", "\\|").replace("\n", " ")
