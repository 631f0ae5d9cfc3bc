"""Our optimizer against onnxsim, OnnxSlim, onnxoptimizer, onnxscript and ONNX Runtime's basic level, file by file.

    python -m tests.bench.optimizers FOLDER [--tools compress onnxsim ...]

Every tool runs as its users run it, one process a file, in an environment of its own (peers.py). Seconds and peak
memory are the process's; a judge (optimizer_judge.py) compares each result with its original, and those that are right
run in turns (optimizer_race.py). Written to results/.
"""

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from tests.bench.peers import Peer, environment

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).resolve().parent / "results" / "optimizers.json"

SCRIPT = "import sys, onnx_ir as ir, onnxscript.optimizer as o; m = ir.load(sys.argv[1]); o.optimize(m)"
RUNTIME = (
    "import sys, onnxruntime as r; s = r.SessionOptions(); s.optimized_model_filepath = sys.argv[2];"
    "s.graph_optimization_level = r.GraphOptimizationLevel.ORT_ENABLE_BASIC;"
    "r.InferenceSession(sys.argv[1], s, providers=['CPUExecutionProvider'])"
)


class Tool(NamedTuple):
    """What is installed, and the arguments that its python gets before the two files."""

    requirements: tuple[str, ...]
    arguments: tuple[str, ...]


TOOLS = {
    "compress": Tool((), ()),
    "onnxsim": Tool(("onnxsim==0.8.1", "onnx==1.23.2"), ("-m", "onnxsim")),
    "onnxslim": Tool(("onnxslim==0.1.98", "onnx==1.23.2"), ("-m", "onnxslim")),
    "onnxoptimizer": Tool(("onnxoptimizer==0.4.2", "onnx==1.23.2"), ("-m", "onnxoptimizer")),
    "onnxscript": Tool(("onnxscript==0.7.2", "onnx==1.23.2"), ("-c", f"{SCRIPT}; ir.save(m, sys.argv[2])")),
    "onnxruntime basic": Tool(("onnxruntime==1.31.1",), ("-c", RUNTIME)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tools", nargs="+", default=list(TOOLS), choices=list(TOOLS))
    arguments = parser.parse_args()
    pythons = {name: python_of(name) for name in arguments.tools}
    files = sorted(arguments.folder.rglob("*.onnx"))
    with tempfile.TemporaryDirectory(prefix="compress-bench-") as folder:
        rows = {file.stem: _measure(file, pythons, Path(folder) / file.stem) for file in files}
    summary = {name: _summary(rows, name) for name in pythons}
    RESULTS.write_text(json.dumps(facts() | {"summary": summary, "files": rows}, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(summary, indent=2))


def python_of(name: str) -> Path:
    requirements = TOOLS[name].requirements
    return environment(Peer(name.replace(" ", "-"), requirements)) if requirements else Path(sys.executable)


def _measure(file: Path, pythons: dict[str, Path], folder: Path) -> dict[str, Any]:
    row: dict[str, Any] = {}
    right: dict[str, Path] = {}
    for name, python in pythons.items():
        place = folder / name.replace(" ", "-")
        place.mkdir(parents=True)
        result = place / "out" / "model.onnx" if name == "compress" else place / "model.onnx"
        row[name] = run(command_of(name, python, file, result))
        if result.is_file() and row[name]["code"] == 0:
            row[name] |= _said("optimizer_judge", file, result) or {"verdict": "wrong: the judge could not read it"}
        if _is_right(row[name]):
            right[name] = result
    for name, milliseconds in zip(right, _said("optimizer_race", file, *right.values()) or (), strict=False):
        row[name]["latency_ms"] = milliseconds
    line = ", ".join(f"{name} {one.get('nodes', '-')}" for name, one in row.items())
    print(f"{file.stem}: {line}", file=sys.stderr)
    return row


def command_of(name: str, python: Path, file: Path, result: Path) -> list[str]:
    if name == "compress":
        return [str(python), str(ROOT / "cli.py"), "optimize", str(file), "-o", str(result.parent)]
    return [str(python), *TOOLS[name].arguments, str(file), str(result)]


def run(command: list[str]) -> dict[str, Any]:
    """Seconds, peak memory and exit code of a process; its words are dropped.

    Bytecode is kept, as Python does where nobody forbids it: pip compiled the rivals'.
    """
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    begin = time.perf_counter()
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=kept | {"PYTHONPATH": str(ROOT) if str(ROOT / "cli.py") in command else ""},
    )
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - begin
    cpu = used.ru_utime + used.ru_stime
    return {
        "code": process.returncode,
        "seconds": round(seconds, 3),
        "cpu_seconds": round(cpu, 3),
        "peak_mb": used.ru_maxrss // 1024,
    }


def _said(module: str, *files: Path) -> Any:
    """The JSON that a module of ours prints, in a process of its own; None where it fails."""
    command = [sys.executable, "-m", f"tests.bench.{module}", *map(str, files)]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    return None if run.returncode else json.loads(run.stdout.strip().splitlines()[-1])


def _is_right(row: dict[str, Any]) -> bool:
    return row.get("verdict") == "right"


def _summary(rows: dict[str, dict[str, Any]], name: str) -> dict[str, Any]:
    """Over all files; nodes against the fewest of the right rivals, where there is one."""
    mine = {file: row[name] for file, row in rows.items()}
    right = {file: row for file, row in mine.items() if _is_right(row)}
    others = {file: [one for other, one in rows[file].items() if other != name and _is_right(one)] for file in right}
    met = {file: rivals for file, rivals in others.items() if rivals}
    fewest = {file: min(one["nodes"] for one in rivals) for file, rivals in met.items()}
    # Rivals merge DequantizeLinear nodes, which our contract forbids: the second count is of all other nodes.
    beside = {file: min(one["nodes"] - one["quantizers"] for one in rivals) for file, rivals in met.items()}
    as_few = [file for file in met if right[file]["nodes"] <= fewest[file]]
    as_few_beside = [file for file in met if right[file]["nodes"] - right[file]["quantizers"] <= beside[file]]
    return {
        "right": len(right),
        "refused": sum(1 for row in mine.values() if row["code"]),
        "wrong": [file for file, row in mine.items() if str(row.get("verdict")).startswith("wrong")],
        "files_with_a_right_rival": len(met),
        "fewest_nodes_share": round(len(as_few) / len(met), 3) if met else None,
        "fewest_nodes_share_beside_quantizers": round(len(as_few_beside) / len(met), 3) if met else None,
        "nodes": sum(right[file]["nodes"] for file in met),
        "nodes_of_the_best_right_rival": sum(fewest.values()),
        "more_nodes_than_a_right_rival": [file for file in met if file not in as_few],
        "right_and_not_raced": [file for file in right if right[file].get("latency_ms") is None],
        "latency_over_rival": {other: _latency_ratio(rows, name, other) for other in TOOLS if other != name},
        "seconds": round(sum(row["seconds"] for row in mine.values()), 2),
        "cpu_seconds": round(sum(row["cpu_seconds"] for row in mine.values()), 2),
        "peak_mb": max(row["peak_mb"] for row in mine.values()),
    }


def _latency_ratio(rows: dict[str, dict[str, Any]], name: str, other: str) -> float | None:
    """Geometric mean over the files that both got right."""
    pairs = [(row[name].get("latency_ms"), row.get(other, {}).get("latency_ms")) for row in rows.values()]
    logs = [math.log(mine / theirs) for mine, theirs in pairs if mine and theirs]
    return round(math.exp(sum(logs) / len(logs)), 3) if logs else None


def facts() -> dict[str, Any]:
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}",
        "versions": {name: list(tool.requirements) for name, tool in TOOLS.items()},
    }


if __name__ == "__main__":
    main()
