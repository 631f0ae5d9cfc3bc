"""Rounding a model of more than 2 GiB against copying it: processor seconds and the clock's, in turns.

    python -m tests.bench.rounding_speed [--products 35] [--rounds 3] [--folder DIR]

A chain of products of 4096 x 4096 in float32. `compress quantize --method rtn`, 4 bits in groups of 32, is one process
from its start to the packed graph at its place, flushed to the disk as artifacts are; the copy is `cp` and that flush.
Bar: 1.5 times the copy. The least of the rounds counts, and Python keeps its bytecode from the first, as installers
leave it; writes results/rounding_speed.json.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.bench import export_depth
from tests.bench.optimizer_memory import make

BENCH = Path(__file__).resolve().parent
ROOT = BENCH.parents[1]
RESULTS = BENCH / "results" / "rounding_speed.json"
BAR = 1.5


class Lap(NamedTuple):
    """What one command took."""

    seconds: float
    processor_seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--products", type=int, default=35)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the model and the results lie while it runs")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="compress-bench-", dir=options.folder) as folder:
        model = Path(folder) / "model" / "model.onnx"
        make(model, options.products, options.width, turned=False)
        laps = measure(model, Path(folder), options.rounds)
    least = {
        name: {field: min(getattr(one, field) for one in rows) for field in Lap._fields} for name, rows in laps.items()
    }
    ratios = {field: least["compress"][field] / least["copy"][field] for field in Lap._fields}
    result = export_depth.facts() | {
        "command": "python -m tests.bench.rounding_speed",
        "setting": f"{options.products} products of {options.width} x {options.width} in float32, 4 bits, groups of 32",
        "weight_bytes": options.products * options.width**2 * 4,
        "least": least,
        "compress_over_copy": ratios,
        "bar": BAR,
        "laps": {name: [one._asdict() for one in rows] for name, rows in laps.items()},
    }
    RESULTS.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


def measure(model: Path, folder: Path, rounds: int) -> dict[str, list[Lap]]:
    """Each command once a round, one after the other; what it wrote goes, so that each finds the pages of another."""
    data, written = model.with_name(f"{model.name}.data"), folder / "written"
    copied, made = written / "copied", written / "made"
    commands: dict[str, list[object]] = {
        "copy": ["sh", "-c", f"cp '{data}' '{copied}' && sync '{copied}'"],
        "compress": [sys.executable, ROOT / "cli.py", "quantize", model, "-o", made, "--method", "rtn"],
    }
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = str(folder / "bytecode")
    laps: dict[str, list[Lap]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            written.mkdir()
            laps[name].append(lap(command, environment))
            shutil.rmtree(written)
    return laps


def lap(command: Sequence[object], environment: Mapping[str, str]) -> Lap:
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([str(part) for part in command], env=environment, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Lap(round(time.perf_counter() - begin, 3), round(used, 3))


if __name__ == "__main__":
    main()
