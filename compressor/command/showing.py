"""What a command shows of its outcome: tables for a reader, or the one document of --json."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from compressor.command.ending import writing
from compressor.command.terminal import emit, show, table
from compressor.report import tables

if TYPE_CHECKING:
    from compressor.artifact import Artifact
    from compressor.planning import Step
    from compressor.providers.prediction import Prediction
    from compressor.report.report import Report

LISTED = 12  # copies that a table shows; --json has them all


def plan(steps: Sequence[Step], place: Path, as_json: bool) -> None:
    rows = [dataclasses.asdict(step) for step in steps]
    if as_json:
        emit({"output": str(place), "stages": rows})
        return
    shown = [
        {
            "stage": row["stage"],
            "state": "done already" if row["reused"] else "to do",
            "disk": tables.number(row["disk_bytes"], "bytes"),
            "peak memory": tables.number(row["peak_bytes"], "bytes"),
            "place": str(row["place"]),
        }
        for row in rows
    ]
    table(f"would write {place}", shown)


def document(made: Artifact, more: Mapping[str, Any] = MappingProxyType({})) -> dict[str, Any]:
    """What --json says of an artifact; `more`: what its stage learned beside it."""
    facts = {"artifact": str(made.directory), "key": made.key, "facts": made.facts, "reused": made.reused}
    return {**facts, **made.measured(), **more}


def artifact(made: Artifact, as_json: bool, more: Mapping[str, Any] = MappingProxyType({})) -> None:
    if as_json:
        emit(document(made, more))
        return
    measured = {**made.measured(), **more}
    for title in ("proof", "passes", "layers"):
        if measured.get(title):
            table(title, [tables.brief(row) for row in measured[title]])
    if left_alone := measured.get("left_alone"):
        from compressor.report.report import left_alone_rows  # `optimize` has none, and starts without

        table("left alone", left_alone_rows(left_alone, measured["left_bytes"]))
    show(f"{'already there' if made.reused else 'wrote'}: {made.directory}")


def report(found: Report, made: Artifact | None, *, strict: bool, as_json: bool) -> None:
    if as_json:
        emit(found.to_json(strict=strict) | {"artifact": str(made.directory) if made else None})
        return
    from compressor.report.report import measurement_rows

    table(f"verdict: {found.verdict(strict=strict)}", measurement_rows(found.measurements))
    show(*(f"fallback: {line}" for line in found.fallbacks))
    if made:
        show(f"artifact: {made.directory}", f"report:   {made.directory / 'report.md'}")


def prediction(name: str, found: Prediction) -> None:
    table(f"{name} for {found.target}, by the kernels of ONNX Runtime {found.version}", found.by_provider())
    if elsewhere := found.elsewhere():
        table("not on the target, or not by choice", elsewhere)
    if found.copies:
        table(f"{len(found.copies)} copies a run", [tables.crossing(one) for one in found.copies[:LISTED]])
    show(*(f"hurts: {line}" for line in found.advice))


def facts(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        emit(found)
        return
    graphs = found.get("graphs", {})
    whole = {name: value for name, value in found.items() if name != "graphs"}
    for title, part in {"": whole, **graphs}.items():
        table(title, [{"what": name, "value": tables.lines_of(value)} for name, value in part.items()])


def write_for_ci(report: Report, junit: Path | None, summary: Path | None, *, strict: bool) -> None:
    """What a CI server reads: JUnit XML, and Markdown behind what other steps said. Raises: as `writing`."""
    with writing():
        if junit:
            from compressor.report.junit import render

            junit.parent.mkdir(parents=True, exist_ok=True)
            junit.write_text(render(report, strict=strict), encoding="utf-8")
        if summary:
            with summary.open("a", encoding="utf-8") as file:
                file.write(report.to_markdown(strict=strict) + "\n")
