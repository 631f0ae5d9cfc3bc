"""Continuous batching against those who have it too: llama.cpp's server and transformers, on the same weights.

    python -m tests.bench.serving_rivals build/llama50m [--threads 1] [--rounds 3]

The model of `llama50m.py`, rounded to 4 bits in blocks of 32, embedding in float32, for us and for llama.cpp; float32
in torch for transformers, which takes fewer requests. llama.cpp computes products in 8-bit integers: beside our
default, float32 activations, stands `package.accuracy_level: 4`, which does the same. Its server is the
one that PyPI has built (xllamacpp): llama-cpp-python is source alone. Results go to `results/serving_rivals.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from compressor import artifact, pipeline
from compressor.disk import write_json
from compressor.recipe import recipe
from tests.bench import llama50m, peers
from tests.bench.serving import Bench, lengths
from tests.bench.serving_ways import BATCH, Way, endless, generate_batch, rates

RESULTS = Path(__file__).parent / "results" / "serving_rivals.json"
LEVELS = {"ours, float32 activations": 1, "ours, int8 activations": 4}
FEW, FEW_TOKENS = 8, 16  # requests of transformers, and what each asks for


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    model = llama50m.make(given.folder).model
    with tempfile.TemporaryDirectory() as place:
        served = {
            name: endless(_quantized(model, given.folder / f"int4-{level}", level), Path(place))
            for name, level in LEVELS.items()
        }
        benches = {name: Bench(one, given.threads, given.rounds) for name, one in served.items()}
        found = measure(benches, model)
    write_json(RESULTS, found)
    print(json.dumps(found, indent=2))


def measure(benches: dict[str, Bench], model: Path) -> dict[str, Any]:
    """Against both."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "versions": artifact.versions(),
        "threads": next(iter(benches.values())).threads,
        "load": os.getloadavg()[0],
        "32 requests, long-tailed": against_llamacpp(benches, model),
        f"{FEW} requests of {FEW_TOKENS} tokens": against_transformers(benches, model),
    }


def _quantized(model: Path, output: Path, level: int) -> Path:
    data = {
        "model": str(model),
        "target": "cpu",
        "quantize": {"rtn": {"bits": 4, "group_size": 32}},
        "package": {"accuracy_level": level},
        "validate": {"perplexity": None},
    }
    return pipeline.run(recipe.build(data), output)[0].directory


def against_llamacpp(benches: dict[str, Bench], model: Path) -> dict[str, Any]:
    """Ours in turns, theirs between two rounds of ours: it is another process."""
    python = peers.environment(peers.SERVERS["llamacpp"])
    ways: dict[str, Way] = {name: bench.ours("engine") for name, bench in benches.items()}
    bench = next(iter(benches.values()))
    draw = bench.draw
    sizes = lengths()["long-tailed, 8 to 128"]
    requests = [[list(one.prompt), one.new_tokens] for one in draw(*sizes)]
    before = rates(ways, lambda: draw(*sizes), 1)
    work = {"threads": bench.threads, "batch": BATCH, "rounds": bench.rounds, "requests": requests}
    theirs = _peer(python, model, work)
    after = rates(ways, lambda: draw(*sizes), bench.rounds - 1 or 1)
    ours = {name: max(before[name], after[name], key=lambda one: one["tokens/processor second"]) for name in ways}
    return ours | {"llama.cpp": theirs}


def _peer(python: Path, model: Path, work: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "work.json"
        path.write_text(json.dumps(work))
        runner = peers.SERVERS["llamacpp"].runner
        ended = subprocess.run([python, runner, model, path], check=True, stdout=subprocess.PIPE)
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


def against_transformers(benches: dict[str, Bench], model: Path) -> dict[str, Any]:
    bench = next(iter(benches.values()))
    ways: dict[str, Way] = {"ours": bench.ours("engine"), "generate_batch": generate_batch(model, bench.threads)}
    draw = bench.draw
    return rates(ways, lambda: draw([24] * FEW, [FEW_TOKENS] * FEW), 2)


if __name__ == "__main__":
    main()
