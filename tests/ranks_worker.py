"""What the ranks of a test run, one process each: `ranks_worker.py CASE FOLDER`, with torchrun's variables set."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from compressor import pipeline, sources
from compressor.command import ending
from compressor.errors import RequestError
from compressor.progress import Track, identity
from compressor.quantize.machine import ranks
from compressor.recipe import recipe
from compressor.shelf import Shelf

DATA = {"source": "data.npz", "samples": 96}
# Each looks at data in a way of its own; 300 inputs are two panels of a second moment.
WAYS: dict[str, dict[str, Any]] = {
    "gptq": {"gptq": {"group_size": 64}},
    "gptq, corrected": {"gptq": {"group_size": 64, "correction": 0.5}},
    "gptq under a budget": {"gptq": {"group_size": 64}, "budget": {"bits": 5}},
    "awq": {"awq": {}, "rtn": {"group_size": 64}},
    "rtn, weighted": {"rtn": {"group_size": 64, "scale_search": "weighted"}},
    "llm_int8": {"llm_int8": {"threshold": 3.0}},
    "smoothquant": {"smoothquant": {}, "dynamic": {}},
    "static_qdq, min-max": {"static_qdq": {"ranges": "minmax"}},
    "static_qdq, entropy": {"static_qdq": {"ranges": "entropy"}},
}


def quantize(folder: Path, place: Path) -> None:
    """The folder's graph in every way, each to a place of its own."""
    given = sources.open_input(folder / "model.onnx")
    for name, method in WAYS.items():
        data = {"calibration": DATA | {"source": str(folder / DATA["source"])}}
        chosen = recipe.build({"model": "x", "target": "cpu", "quantize": method, **data})
        pipeline.quantize(given, chosen, Shelf(place / name, exact=True))


def one_job(name: str, folder: Path) -> None:
    """A stage in which the ranks sum a number, and rank 1 does something before."""
    chosen = recipe.build({"model": "x", "quantize": {"gptq": {}}})
    with Shelf(folder / "made", exact=True).draft("quantize", "key", {}, {}) as draft:
        (draft.folder / "half").write_text("written")
        ranks.led(work, name, chosen, draft.folder, identity)


def work(name: str, chosen: object, folder: Path, track: Track) -> None:
    del chosen, folder, track
    if not ranks.leads():
        globals()[name]()
    ranks.total(torch.ones(1))


def refuse() -> None:
    raise RequestError("data.npz: row 7 is not finite")


def stumble() -> None:
    raise IndexError("nobody thought of this")


def vanish() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fall_asleep() -> None:
    time.sleep(15)


def main(case: str, folder: Path) -> int:
    ranks.PATIENCE = timedelta(seconds=5) if case == "fall_asleep" else ranks.PATIENCE
    ranks.FAREWELL = timedelta(seconds=1)
    return ending.among_ranks(lambda: quantize(folder, folder / "two") if case == "quantize" else one_job(case, folder))


if __name__ == "__main__":
    code = main(sys.argv[1], Path(sys.argv[2]))
    (Path(sys.argv[2]) / f"code-{os.environ['RANK']}").write_text(json.dumps(code))
    sys.exit(code)
