"""Which architectures export, and how far each graph lies from torch: `make coverage` writes docs/coverage.md.

    python -m tests.coverage                     every row of tests/architectures.py, for every target
    python -m tests.coverage bert t5 --targets generic,cpu     some of them; the table keeps what it has of the others

A row is exported at opset 21 and held to torch at sizes that were not traced; then optimized for each target and held
to torch again, in ONNX Runtime on a CPU. What stands in the table is the worst difference, over the largest value that
torch gives; or the first line of the reason.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from compressor import catalog, pipeline, sources
from compressor.artifact import Artifact
from compressor.errors import CompressError
from compressor.export import exporters
from compressor.recipe import recipe
from compressor.shelf import Shelf
from tests import architectures

DOCS = Path(__file__).parents[1] / "docs"
KNOWN, TABLE = DOCS / "coverage.json", DOCS / "coverage.md"
EXPORTED = "exported"
HEAD = """# Architectures

Made by `make coverage` from small random models (`tests/architectures.py`), the worst difference between torch and ONNX
Runtime over the largest value that torch gives: at batch 1 and 3, odd lengths, padded rows, and step by step on a cache
where there is one. `exported` is the graph as it is traced, at opset 21; the others are optimized for a target and run
on a CPU. float32 allows 1e-4. An empty cell was not tried.

"""


def cover(name: str, targets: list[str], folder: Path) -> dict[str, Any]:
    """One row: the task, and for each target the worst difference or a reason."""
    checkpoint = architectures.write(name, folder / "checkpoint")
    row: dict[str, Any] = {"class": architectures.ROWS[name].model, "task": "", "worst": {}}
    request = recipe.build({"model": str(checkpoint)})
    try:
        source = sources.find(str(checkpoint))
        made = pipeline.export(source, request, Shelf(folder / "stages"))
        row |= {"task": made.facts["task"], "graphs": len(made.models), "nodes": made.facts["nodes"]}
        row["worst"][EXPORTED] = max(one["difference"] for one in made.measured()["proof"])
    except CompressError as error:
        row["worst"][EXPORTED] = _reason(error)
        return row
    _, exporter = exporters.prepare(source, request.export)
    proven: dict[str, float | str] = {}
    for target in targets:
        optimized = _optimized(made, target, Shelf(folder / "stages"))
        if isinstance(optimized, str):
            row["worst"][target] = optimized
            continue
        files = json.dumps(optimized.manifest["files"], sort_keys=True)
        if files not in proven:  # two targets may get the same bytes: they are one graph and have one number
            proven[files] = _worst(exporter, optimized)
        row["worst"][target] = proven[files]
    return row


def merged(known: dict[str, Any], made: dict[str, Any]) -> dict[str, Any]:
    """A row made anew; a target that was not asked for keeps its cell."""
    return made | {"worst": known.get("worst", {}) | made["worst"]}


def lacks(row: dict[str, Any], targets: list[str]) -> bool:
    """Whether a row has an empty cell that it could have; where nothing was exported there is nothing to optimize."""
    worst = row.get("worst", {})
    return not isinstance(worst.get(EXPORTED), str) and any(one not in worst for one in (EXPORTED, *targets))


def _optimized(made: Artifact, target: str, shelf: Shelf) -> Artifact | str:
    try:
        return pipeline.optimize(made, recipe.build({"model": "of a row", "target": target}), shelf)
    except CompressError as error:
        return _reason(error)


def _worst(exporter: exporters.Exported, optimized: Artifact) -> float | str:
    try:
        return max(one.difference for one in exporter.prove(optimized.directory))
    except CompressError as error:
        return _reason(error)


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0][:160]


def table(rows: dict[str, dict[str, Any]]) -> str:
    """The rows as Markdown, in the order of tests/architectures.py."""
    columns = [EXPORTED, *catalog.TARGETS]
    lines = [f"| architecture | class | task | {' | '.join(columns)} |", f"|{'---|' * (3 + len(columns))}"]
    for name in (one for one in architectures.ROWS if one in rows):
        row = rows[name]
        cells = " | ".join(_cell(row["worst"].get(column)) for column in columns)
        lines.append(f"| {name} | {row['class']} | {row['task']} | {cells} |")
    green = sum(all(isinstance(worst, float) for worst in row["worst"].values()) for row in rows.values())
    untried = ", ".join(name for name in architectures.ROWS if name not in rows)
    verdict = f"{green} of {len(rows)} architectures are right wherever they were tried."
    left = f"\n\nNot tried yet: {untried}." if untried else ""
    return f"{HEAD}{verdict}{left}\n\n" + "\n".join(lines) + "\n"


def _cell(worst: float | str | None) -> str:
    return "" if worst is None else f"{worst:.1e}" if isinstance(worst, float) else worst.replace("|", "/")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", choices=[*architectures.ROWS, []], default=[])
    parser.add_argument("--targets", default=",".join(catalog.TARGETS))
    parser.add_argument("--missing", action="store_true", help="only rows with an empty cell")
    chosen = parser.parse_args()
    rows: dict[str, dict[str, Any]] = json.loads(KNOWN.read_text(encoding="utf-8")) if KNOWN.is_file() else {}
    targets = [one for one in chosen.targets.split(",") if one]
    for name in chosen.names or architectures.ROWS:
        if chosen.missing and not lacks(rows.get(name, {}), targets):
            continue
        begin = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            rows[name] = merged(rows.get(name, {}), cover(name, targets, Path(folder)))
        print(f"{name:32} {rows[name]['worst']} {time.perf_counter() - begin:.0f} s", file=sys.stderr, flush=True)
        DOCS.mkdir(exist_ok=True)
        KNOWN.write_text(json.dumps(rows, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        TABLE.write_text(table(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
