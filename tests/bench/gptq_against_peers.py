"""GPTQ against GPTQModel and llm-compressor: seconds and peak memory, side by side, in turns, in one run.

    make bench      or      python -m tests.bench.gptq_against_peers [--rounds 3]

Every contestant quantizes the same 51 M-parameter Llama (llama50m.py) with the same tokens in a process of its own; the
peers in their own environments (peers.py). Medians over the rounds, ratios to ours; written to results/.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.bench import llama50m, peers

BENCH = Path(__file__).resolve().parent
ROOT = BENCH.parents[1]
RESULTS = BENCH / "results" / "gptq_against_peers.json"
BARS = {"gptqmodel": 0.333, "llmcompressor": 0.25}  # of the peer's seconds
MEMORY_BAR = 0.5  # of its peak memory

Lap = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory(prefix="compress-bench-") as folder:
        laps = measure(Path(folder), rounds)
        breakdown = parts_of_ours(Path(folder))
    summary = {name: median(rows) for name, rows in laps.items()}
    ours = summary["compress"]
    ratios = {
        name: {
            "seconds": round(ours["quantize_seconds"] / row["quantize_seconds"], 3),
            "seconds_bar": BARS[name],
            "total_seconds": round(ours["total_seconds"] / row["total_seconds"], 3),
            "peak_memory": round(ours["peak_rss_bytes"] / row["peak_rss_bytes"], 3),
            "peak_memory_bar": MEMORY_BAR,
        }
        for name, row in summary.items()
        if name != "compress"
    }
    result = facts(rounds) | {"median": summary, "ours_over_peer": ratios, "breakdown": breakdown, "laps": laps}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps({name: result[name] for name in ("median", "ours_over_peer", "breakdown")}, indent=2))


def measure(folder: Path, rounds: int) -> dict[str, list[Lap]]:
    """Laps of every contestant, who take turns so that another load on the machine meets all."""
    bench = llama50m.make(folder / "input")
    pythons = {name: peers.environment(peer) for name, peer in peers.PEERS.items()}
    exported(bench.model, folder)
    laps: dict[str, list[Lap]] = {"compress": []} | {name: [] for name in pythons}
    for turn in range(rounds):
        laps["compress"].append(ours(folder))
        for name, peer in peers.PEERS.items():
            command = [pythons[name], peer.runner, bench.model, bench.calibration, folder / f"{name}-{turn}"]
            laps[name].append(lap(command, dict(peer.variables)))
    return laps


def ours(folder: Path, *wanted: str) -> Lap:
    command = [
        sys.executable,
        BENCH / "ours.py",
        folder / "optimize",
        folder / "input" / "calibration.npy",
        folder / "ours",
        *wanted,
    ]
    return lap(command, peers.COMMON | {"PYTHONPATH": str(ROOT)})


def parts_of_ours(folder: Path) -> Lap:
    """Where our time goes, in one more lap, beside the products and copies that the machine is capable of."""
    document = ours(folder, "parts")
    return {name: document[name] for name in ("quantize_seconds", "parts", "machine")}


def exported(model: Path, folder: Path) -> None:
    """The graph that ours begins with: exported and optimized by the command line, outside the clock."""
    for command, source, *options in (("export", model), ("optimize", folder / "export", "--for", "cpu")):
        arguments = [sys.executable, ROOT / "cli.py", command, source, "-o", folder / command, *options]
        subprocess.run(arguments, check=True, stdout=sys.stderr)


def lap(command: list[Any], variables: dict[str, str]) -> Lap:
    """Run a contestant and read its document; a contestant that fails ends the benchmark with its own words."""
    run = subprocess.run(
        [str(part) for part in command],
        env=os.environ | variables,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        cwd=tempfile.gettempdir(),  # some peers leave logs where they stand
    )
    document: Lap = json.loads(run.stdout.strip().splitlines()[-1])
    print(f"{Path(str(command[1])).stem:<24}{document['quantize_seconds']:>8.1f} s", file=sys.stderr)
    return document


def median(laps: list[Lap]) -> Lap:
    """Median of every number; versions as they are."""
    numbers = {name: statistics.median(one[name] for one in laps) for name, v in laps[0].items() if name != "versions"}
    return numbers | {"versions": laps[0]["versions"]}


def facts(rounds: int) -> Lap:
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "command": f"python -m tests.bench.gptq_against_peers --rounds {rounds}",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}",
        "setting": "51 M-parameter Llama, 4 bits, groups of 128, symmetric, 32 samples of 512 tokens",
    }


if __name__ == "__main__":
    main()
