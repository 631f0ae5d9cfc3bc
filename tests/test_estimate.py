"""What a run is said to cost, against what it costs; and the disk, asked before anything is written."""

from __future__ import annotations

import shutil
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from compressor import estimate, pipeline, sources
from compressor.errors import MachineError
from compressor.recipe import recipe
from compressor.shelf import Shelf
from tests import decoders
from tests.bench import export_memory

SIZES = {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 4, "num_key_value_heads": 4}


def weights(parameters: int, *, held: bool = False) -> estimate.Weights:
    return estimate.Weights(parameters, 0, 1000, 1000, 1000, held)


def test_a_model_that_is_mapped_costs_no_memory_by_its_size() -> None:
    small, large = (estimate._export_peak(weights(n), 2 * n) for n in (10**9, 10**11))
    assert small == large
    assert estimate._export_peak(weights(10**11, held=True), 2 * 10**11) == large + 2 * 10**11


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="anonymous memory is read from /proc")
def test_the_peak_is_foretold_within_a_factor_of_two(tmp_path: Path) -> None:
    folder = export_memory.make(tmp_path / "checkpoint", SIZES)
    costs = estimate.costs(sources.find(str(folder)), recipe.build({"model": str(folder)}))
    run = [sys.executable, "-m", "cli"]
    commands = {
        "export": [*run, "export", folder, "-o", tmp_path / "exported"],
        "optimize": [*run, "optimize", tmp_path / "exported", "-o", tmp_path / "optimized"],
    }
    for stage, command in commands.items():
        measured = export_memory.watched(command)
        assert measured["exit_code"] == 0, measured
        assert costs[stage][1] / 2 < measured["peak_anonymous_bytes"] < 2 * costs[stage][1], stage


def test_a_full_disk_is_refused_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoders.random_model("llama").save_pretrained(tmp_path / "checkpoint")
    request = recipe.build({"model": str(tmp_path / "checkpoint")})
    source, shelf = sources.find(request.model), Shelf(tmp_path / "stages")
    exported = pipeline.export(source, request, shelf)
    disk = namedtuple("disk", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: disk(10**9, 10**9 - 1000, 1000))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(MachineError, match="GB will be written and"):
        pipeline.optimize(exported, request, shelf)
    with pytest.raises(MachineError, match="GB will be written and"):
        pipeline.export(source, request, Shelf(tmp_path / "elsewhere"))
    assert sorted(tmp_path.rglob("*")) == before
