"""Several processes give what one gives; what goes wrong in one ends all, with one line and nothing half-written."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from compressor.disk import digest
from compressor.graph.session import save_model
from tests import graphs, ranks_worker
from tests.conftest import ROOT, FirstRun

# Made before this folder's fixture leaves torch one thread: other files compare it with runs that have them all.
pytestmark = pytest.mark.usefixtures("first")

# A norm before the products, for AWQ and SmoothQuant to fold their factors into.
TEXT = """(float[N,300] x) => (float[N,40] y) {
    n = LayerNormalization(x, scale)  a = MatMul(n, wa)  c = MatMul(n, wc)  h = Mul(a, c)  y = MatMul(h, wy)
}"""
WEIGHTS = {"scale": np.ones(300, np.float32), "wa": graphs.normal(300, 40), "wc": graphs.normal(300, 40)[::-1].copy()}
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
WORKER = ROOT / "tests" / "ranks_worker.py"
# Two interpreters import torch and meet; on a machine that others load that takes a while.
LIMIT_SECONDS = 120


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A graph, and rows whose inputs follow each other, a few of them loud."""
    save_model(graphs.build(TEXT, opset=21, **WEIGHTS, wy=graphs.normal(40, 40)), tmp_path / "model.onnx")
    rng = np.random.default_rng(0)
    rows = (rng.normal(size=(96, 300)) @ (np.tril(np.full((300, 300), 0.3)) + np.eye(300))).astype(np.float32)
    rows[:, [7, 80]] *= 20
    np.savez(tmp_path / ranks_worker.DATA["source"], x=rows)
    return tmp_path


def torchrun(*command: object) -> subprocess.CompletedProcess[str]:
    """Two processes of the real launcher."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    return subprocess.run(
        [*launcher, *map(str, command)],
        capture_output=True, text=True, check=False, env=ENVIRONMENT, timeout=LIMIT_SECONDS,
    )  # fmt: skip


def two_ranks(case: str, folder: Path) -> list[subprocess.Popen[str]]:
    """Two processes with the variables that a launcher sets, ended; their exit codes are their own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    started = [
        subprocess.Popen(
            [sys.executable, WORKER, case, folder],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT | where | {"RANK": str(rank)},
        )
        for rank in range(2)
    ]  # fmt: skip
    for one in started:
        one.wait(LIMIT_SECONDS)
    return started


def content(place: Path) -> dict[str, str]:
    """The hash of every file that holds no time, by name."""
    files = (one for one in place.rglob("*") if one.is_file() and one.name not in ("report.json", "manifest.json"))
    return {str(one.relative_to(place)): digest(one) for one in files}


def complaints(rank: subprocess.Popen[str]) -> list[str]:
    assert rank.stderr is not None
    return [line for line in rank.stderr.read().splitlines() if line.startswith("compress: ")]


def test_two_processes_give_the_bytes_of_one(folder: Path) -> None:
    ended = torchrun(WORKER, "quantize", folder)
    assert ended.returncode == 0, ended.stderr[-2000:]
    ranks_worker.quantize(folder, folder / "one")
    for name in ranks_worker.WAYS:
        assert content(folder / "two" / name) == content(folder / "one" / name) != {}, name


def test_the_command_line_takes_part(first: FirstRun, tmp_path: Path) -> None:
    kept = ["lm_head", *(f"layers.{index}." for index in range(1, 5))]
    command = ["-m", "cli", "quantize", first.run.stage("optimize"), "--json", "--set", f"quantize.exclude={kept}"]
    made = torchrun(*command, "-o", tmp_path / "made", "--set", "calibration={samples: 64, length: 32}")
    assert made.returncode == 0, made.stderr[-2000:]
    assert json.loads(made.stdout)["artifact"] == str(tmp_path / "made")  # one document: the first rank alone speaks
    (quantized,) = (tmp_path / "made.stages").iterdir()
    assert '"ranks": 2' in (quantized / "manifest.json").read_text()
    few = torchrun(*command, "-o", tmp_path / "few", "--set", "calibration={samples: 4, length: 32}")
    assert few.returncode != 0
    (said,) = (line for line in few.stderr.splitlines() if line.startswith("compress: "))
    assert said.endswith("calibration: 1 batches for 2 ranks; bring more data or start fewer")
    assert not (tmp_path / "few").exists()


@pytest.mark.parametrize(
    ("case", "code", "line"),
    [
        ("refuse", 2, "rank 1: data.npz: row 7 is not finite"),
        ("stumble", 70, "rank 1: this is a bug in compress: IndexError: nobody thought of this"),
        ("vanish", 3, "another rank was lost"),
        ("fall_asleep", 3, "another rank was lost"),
    ],
)
def test_what_goes_wrong_in_one_ends_all(case: str, code: int, line: str, tmp_path: Path) -> None:
    begin = time.monotonic()
    leader, follower = two_ranks(case, tmp_path)
    assert leader.returncode == code
    (said,) = complaints(leader)
    assert line in said
    assert not list(tmp_path.glob(".made*"))
    assert not (tmp_path / "made").exists()
    assert case == "fall_asleep" or complaints(follower) == []  # one that wakes up finds nobody, and says so
    assert follower.returncode != 0
    assert time.monotonic() - begin < LIMIT_SECONDS / 2
