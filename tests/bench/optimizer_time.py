"""Many files through our optimizer, onnxsim and OnnxSlim: processor seconds of all, three ways, laps in turns.

    python -m tests.bench.optimizer_time FOLDER [--laps 3]

a command a file    as each of their command lines takes it: starts of Python and all
one command         ours takes all files at once; theirs take one, so theirs is again the sum of a command a file
from Python         libraries loaded beforehand (optimizer_warm.py)

Files that a tool refuses or dies of count with the time that it took. Medians; written to results/.
"""

import argparse
import json
import statistics
import subprocess
import tempfile
from pathlib import Path

from tests.bench.optimizers import ROOT, command_of, facts, python_of, run

RESULTS = Path(__file__).resolve().parent / "results" / "optimizer_time.json"
TOOLS = ("compress", "onnxsim", "onnxslim")
Laps = dict[str, dict[str, list[float]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--laps", type=int, default=3)
    arguments = parser.parse_args()
    files = sorted(arguments.folder.resolve().rglob("*.onnx"))
    laps: Laps = {way: {name: [] for name in TOOLS} for way in ("a command a file", "one command", "from Python")}
    for lap in range(arguments.laps):
        for name in TOOLS:
            each = _one_by_one(name, files)
            laps["a command a file"][name].append(each)
            laps["one command"][name].append(_together(files) if name == "compress" else each)
            laps["from Python"][name].append(_from_python(name, files))
        print(f"lap {lap + 1}: {json.dumps({way: {n: s[-1] for n, s in row.items()} for way, row in laps.items()})}")
    result = facts() | {"files": len(files), "laps": laps, "ratios": {way: _ratios(row) for way, row in laps.items()}}
    RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result["ratios"], indent=1))


def _one_by_one(name: str, files: list[Path]) -> float:
    python, total = python_of(name), 0.0
    for file in files:
        with tempfile.TemporaryDirectory() as folder:
            result = Path(folder) / ("out/model.onnx" if name == "compress" else "model.onnx")
            total += float(run(command_of(name, python, file, result))["cpu_seconds"])
    return round(total, 2)


def _together(files: list[Path]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        command = [str(python_of("compress")), str(ROOT / "cli.py"), "optimize", *map(str, files), "-o", folder]
        return round(float(run(command)["cpu_seconds"]), 2)


def _from_python(name: str, files: list[Path]) -> float:
    command = [str(python_of(name)), str(ROOT / "tests" / "bench" / "optimizer_warm.py"), name, *map(str, files)]
    environment = {"PYTHONPATH": str(ROOT)} if name == "compress" else None
    said = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    return round(float(said.splitlines()[-1]), 2)


def _ratios(row: dict[str, list[float]]) -> dict[str, float]:
    mine = statistics.median(row["compress"])
    return {name: round(mine / statistics.median(row[name]), 3) for name in TOOLS if name != "compress"}


if __name__ == "__main__":
    main()
