"""What the passes make of ten transformers, layer by layer: `make fusions` writes docs/fusions.md.

    python -m tests.fusion_table                      every row, for every target
    python -m tests.fusion_table bert t5              some of them; the table keeps what it has of the others

A row is a small random model of tests/architectures.py, its biases and norms away from the zeros and ones that training
starts with, which passes would take for nothing. It is exported, optimized for each target, and held to torch in ONNX
Runtime on a CPU. One layer more is exported too: what the graph then has more is what a layer costs. A graph in a half
type is compared with the one it was made from, computed on the same CPU and rounded as the type rounds.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from compressor import catalog, pipeline, sources
from compressor.artifact import Artifact
from compressor.export import exporters
from compressor.graph.session import load_model
from compressor.recipe import recipe
from compressor.shelf import Shelf
from tests import architectures
from tests.coverage import DOCS

KNOWN, TABLE = DOCS / "fusions.json", DOCS / "fusions.md"
# Row -> the sizes of one layer more.
DEEPER: dict[str, dict[str, Any]] = {
    "bert": {"num_hidden_layers": 3},
    "vit": {"num_hidden_layers": 3},
    "resnet": {"depths": [1, 2]},
    "whisper": {"encoder_layers": 3, "decoder_layers": 3},
    "t5": {"num_layers": 3, "num_decoder_layers": 3},
    "gpt2": {"num_hidden_layers": 3},
    "llama": {"num_hidden_layers": 3},
    "qwen3": {"num_hidden_layers": 3},
    "gemma3_text": {"num_hidden_layers": 3},
    "mixtral": {"num_hidden_layers": 3},
}
HALVES = ("float16", "bfloat16")
HALVED = ("generic", "cuda", "tensorrt")  # the CPU has no products in these, and is refused
HEAD = """# Fusions

Made by `make fusions` from small random models (`tests/architectures.py`) exported at opset 21, two layers each; an
encoder and its decoder are counted together. Nodes as exported and as optimized, how many passes were rolled back, and
the worst difference to torch over the largest value that torch gives (float32 allows 1e-4), at sizes that were not
traced. Half types: the worst difference to the optimized float32 graph, over its largest value.

"""

Row = dict[str, Any]


def measure(name: str, folder: Path) -> Row:
    """One row: nodes and operators of a layer for each target, rollbacks, differences."""
    made = _exported(name, folder / "shallow", {})
    deeper = _exported(name, folder / "deep", DEEPER[name])
    checkpoint = str(folder / "shallow" / "checkpoint")
    _, exporter = exporters.prepare(sources.find(checkpoint), recipe.build({"model": checkpoint}).export)
    row: Row = {"class": architectures.ROWS[name].model, "nodes": made.facts["nodes"], "targets": {}}
    proven: dict[str, float] = {}
    for target in catalog.TARGETS:
        optimized = _optimized(made, target, folder)
        files = json.dumps(optimized.manifest["files"], sort_keys=True)
        if files not in proven:  # two targets may get the same bytes
            proven[files] = max(one.difference for one in exporter.prove(optimized.directory))
        layer = operators(_optimized(deeper, target, folder)) - operators(optimized)
        row["targets"][target] = _told(optimized) | {"layer": dict(layer.most_common()), "worst": proven[files]}
    return row | {dtype: {target: _halved(made, target, dtype, folder) for target in HALVED} for dtype in HALVES}


def _halved(made: Artifact, target: str, dtype: str, folder: Path) -> Row:
    halved = _optimized(made, target, folder, dtype)
    found = [one["worst_difference"] for one in halved.measured()["passes"] if one["name"] == "HalfPrecision"]
    return _told(halved) | {"worst": max((one for one in found if one is not None), default=None)}


def _exported(name: str, folder: Path, sizes: dict[str, Any]) -> Artifact:
    checkpoint = architectures.write(name, folder / "checkpoint", **sizes)
    return pipeline.export(sources.find(str(checkpoint)), recipe.build({"model": str(checkpoint)}), Shelf(folder / "s"))


def _optimized(made: Artifact, target: str, folder: Path, dtype: str | None = None) -> Artifact:
    options = {"optimize": {"dtype": dtype}} if dtype else {}
    return pipeline.optimize(made, recipe.build({"model": "of a row", "target": target} | options), Shelf(folder / "s"))


def operators(made: Artifact) -> Counter[str]:
    """Of all graphs of an artifact."""
    return Counter(node.op_type for path in made.models for node in load_model(path).graph.all_nodes())


def _told(optimized: Artifact) -> Row:
    return {"nodes": optimized.facts["nodes"], "rolled_back": len(optimized.facts["fallbacks"])}


def table(rows: dict[str, Row]) -> str:
    """The rows as Markdown, in the order of DEEPER."""
    known = [name for name in DEEPER if name in rows]
    lines = [f"| architecture | exported | {' | '.join(catalog.TARGETS)} |", f"|{'---|' * (2 + len(catalog.TARGETS))}"]
    for name in known:
        cells = " | ".join(_cell(rows[name]["targets"][target]) for target in catalog.TARGETS)
        lines.append(f"| {name} | {rows[name]['nodes']} | {cells} |")
    for dtype in HALVES:
        lines += ["", f"In {dtype}, for {', '.join(HALVED)}:", ""]
        lines += [f"| architecture | {' | '.join(HALVED)} |", f"|{'---|' * (1 + len(HALVED))}"]
        for name in (one for one in known if dtype in rows[one]):
            lines.append(f"| {name} | {' | '.join(_cell(rows[name][dtype][target]) for target in HALVED)} |")
        missing = [name for name in known if dtype not in rows[name]]
        lines += ["", f"Not made yet in {dtype}: {', '.join(missing)}."] if missing else []
    lines += [
        "",
        "What one layer more adds (an encoder's and a decoder's together):",
        "",
        "| architecture | target | nodes | operators |",
        "|---|---|---|---|",
    ]
    lines += [line for name in known for line in _layers(name, rows[name])]
    left = [name for name in DEEPER if name not in rows]
    lines += ["", f"Not made yet: {', '.join(left)}."] if left else []
    return HEAD + "\n".join(lines) + "\n"


def _cell(told: Row) -> str:
    worst = "not compared" if told["worst"] is None else f"{told['worst']:.1e}"
    return f"{told['nodes']}, {worst}" + (f", {told['rolled_back']} rolled back" if told["rolled_back"] else "")


def _layers(name: str, row: Row) -> list[str]:
    """A line for the targets that have the same layer."""
    alike: dict[str, list[str]] = {}
    for target, told in row["targets"].items():
        alike.setdefault(json.dumps(told["layer"], sort_keys=True), []).append(target)
    lines = []
    for targets in alike.values():
        layer = row["targets"][targets[0]]["layer"]
        counts = ", ".join(
            f"{operator} {count}" if count > 1 else operator for operator, count in sorted(layer.items())
        )
        lines.append(f"| {name} | {', '.join(targets)} | {sum(layer.values())} | {counts} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", choices=[*DEEPER, []], default=[])
    rows: dict[str, Row] = json.loads(KNOWN.read_text(encoding="utf-8")) if KNOWN.is_file() else {}
    for name in parser.parse_args().names or DEEPER:
        begin = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            rows[name] = measure(name, Path(folder))
        print(f"{name:16} {rows[name]} {time.perf_counter() - begin:.0f} s", file=sys.stderr, flush=True)
        KNOWN.write_text(json.dumps(rows, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        TABLE.write_text(table(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
