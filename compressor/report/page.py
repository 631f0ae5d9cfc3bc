"""A report as one HTML file that needs nothing: no network, no script, charts drawn as inline SVG.

Verdict, measurements, artifact against reference, error of each layer, placement, latency, passes, provenance.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from compressor.report import charts
from compressor.report.report import Measurement, Report, left_alone_rows, measurement_rows
from compressor.report.tables import number

STYLE = """
body { font: 15px/1.5 sans-serif; color: #222; max-width: 60em; margin: 2em auto; padding: 0 1em }
h1 { font-size: 1.5em } h2 { font-size: 1.15em; margin-top: 2em; border-bottom: 1px solid #ddd }
table { border-collapse: collapse; font-size: 0.9em } td, th { padding: 0.2em 0.7em; text-align: left }
th { border-bottom: 2px solid #999 } tr:nth-child(even) { background: #f5f5f5 } svg { max-width: 100%; height: auto }
.passed { color: #00663d } .missed { color: #b00000; font-weight: bold } .scroll { overflow-x: auto }
"""
COMPARED = ("perplexity", "accuracy", "size")  # what a reader asks first: quality and size against the reference
WORSE = "worse than rounding"
LAYERS_SHOWN = 40  # the worst; the table in report.json has all


def render(report: Report, *, strict: bool) -> str:
    """The whole document."""
    verdict = report.verdict(strict=strict)
    kind = "passed" if verdict == "passed" else "missed"
    sections = [_section(title, body) for title, body in _sections(report) if body]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>compress: {escape(verdict)}</title><style>{STYLE}</style></head><body>"
        f'<h1>compress: <span class="{kind}">{escape(verdict)}</span></h1>{"".join(sections)}</body></html>\n'
    )


def _sections(report: Report) -> Iterator[tuple[str, str]]:
    yield "Measurements", _table(measurement_rows(report.measurements))
    yield "Fallbacks", "".join(f"<p>{escape(line)}</p>" for line in report.fallbacks)
    yield "Against the reference", "".join(_against_reference(report.measurements))
    yield "Error by layer", _layers(report.layers)
    yield "Left alone", _table(left_alone_rows(report.left_alone, report.left_bytes))
    yield "Placement", "".join(line for graph in report.placement for line in _placement(graph))
    yield "Latency", _latency(report.measurements)
    yield "Passes", _table(report.passes)
    yield "Stages", _table(report.stages)
    yield "Provenance", _table([{"what": name, "value": value} for name, value in report.facts.items()])


def _against_reference(measurements: Sequence[Measurement]) -> Iterator[str]:
    for one in measurements:
        if one.name in COMPARED and one.reference is not None:
            scale, unit = (1e6, "MB") if one.unit == "bytes" else (1.0, one.unit)
            rows = [("reference", one.reference / scale, ""), ("artifact", one.value / scale, "")]
            yield charts.bars(one.name, rows, unit=unit)


def _layers(layers: Sequence[Mapping[str, Any]]) -> str:
    """Output error of the layers that have one, worst first; marked where rounding did better."""
    errors = [(str(row["layer"]), float(row["error"]), row.get("rounding_error")) for row in layers if row.get("error")]
    worst = sorted(errors, key=lambda row: -row[1])[:LAYERS_SHOWN]
    rows = [
        (name, error, WORSE if rounding is not None and error > rounding else "") for name, error, rounding in worst
    ]
    return charts.bars(f"relative output error, worst {len(rows)} layers", rows) if rows else ""


def _placement(placement: Mapping[str, Any]) -> Iterator[str]:
    yield charts.strip(
        f"nodes of {placement['graph']} in order, for {placement['target']}, {placement['how']}", placement["runs"]
    )
    yield charts.shares("FLOPs by provider", [(row["provider"], row["FLOPs"]) for row in placement["providers"]])
    yield _table(placement["providers"])
    yield _table(placement["elsewhere"])
    yield "".join(f"<p>{escape(line)}</p>" for line in placement["advice"])


def _latency(measurements: Sequence[Measurement]) -> str:
    rows = [(one.name, one.value, "") for one in measurements if one.unit == "ms"]
    return charts.bars("latency", rows, unit="ms") if rows else ""


def _section(title: str, body: str) -> str:
    return f'<h2>{escape(title)}</h2><div class="scroll">{body}</div>'


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = "".join(f"<tr>{''.join(_cell(row.get(name)) for name in columns)}</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _cell(value: Any) -> str:
    """Verdicts are coloured; numbers are short."""
    kind = {"passed": ' class="passed"', "MISSED": ' class="missed"'}.get(value, "") if isinstance(value, str) else ""
    if isinstance(value, float):
        text = number(value)
    elif isinstance(value, (list, tuple)):
        text = "; ".join(map(str, value))
    else:
        text = "" if value is None else str(value)
    return f"<td{kind}>{escape(text)}</td>"
