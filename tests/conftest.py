"""What the tests share: a command line to call, and one whole run of the built-in model, made twice."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # no test asks the network; read when huggingface_hub is imported

import cli
from compressor import pipeline
from compressor.artifact import Artifact
from compressor.recipe import recipe
from compressor.report.report import Report

if TYPE_CHECKING:
    from tests.decoders import Exported

ROOT = Path(__file__).parents[1]
Write = Callable[[str, str | bytes], str]

# The built-in model with one of its five layers quantized on 128 tokens: every stage in a few seconds.
SMALL: dict[str, Any] = {
    "model": "builtin:tiny-lm",
    "target": "cpu",
    "calibration": {"samples": 4, "length": 32},
    "quantize": {
        "gptq": {"group_size": 32, "scale_search": False},
        "exclude": ["lm_head", "layers.1.", "layers.2.", "layers.3.", "layers.4."],
    },
    "validate": {
        "agreement": {"length": 8, "decode_steps": 2, "max_kl": 1.0},
        "perplexity": {"windows": "documents", "length": 32, "tokens": 256, "max_increase": 0.5},
        "speed": None,
        "layers": {"max_flagged": None},
    },
}


class Outcome(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """The one document on standard output."""
        return json.loads(self.out)


@dataclass(frozen=True)
class Run:
    """A finished run: its recipe's file, the place it was asked for, and the stages beside it."""

    file: Path
    output: Path

    @property
    def stages(self) -> Path:
        return pipeline.stages_beside(self.output).root

    def stage(self, name: str) -> Path:
        (folder,) = self.stages.glob(f"{name}-*")
        return folder


class FirstRun(NamedTuple):
    run: Run
    made: Artifact
    report: Report


class SecondRun(NamedTuple):
    run: Run
    outcome: Outcome


def _written(folder: Path) -> Run:
    """The small recipe as a file, and a place for its artifact."""
    file = folder / "small.yaml"
    file.write_text(json.dumps(SMALL, indent=2), encoding="utf-8")  # JSON is YAML
    return Run(file, folder / "out")


@pytest.fixture(autouse=True)
def denormals() -> Iterator[None]:
    """An artifact that is served has the thread that opens it take them for zero; here that ends with the test."""
    yield
    if "torch" in sys.modules:
        import torch

        torch.set_flush_denormal(False)


@pytest.fixture
def compress(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """compress("inspect", path) as a shell would have it, in this process."""

    def call(*arguments: object) -> Outcome:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main([str(one) for one in arguments])
        code = end.value.code
        assert isinstance(code, int)
        return Outcome(code, *capsys.readouterr())

    return call


@pytest.fixture
def source(tmp_path: Path) -> Write:
    """A file of a name, with a content."""

    def write(name: str, content: str | bytes) -> str:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    return write


@pytest.fixture
def small(tmp_path: Path) -> Run:
    """A run that has not begun."""
    return _written(tmp_path)


@pytest.fixture(scope="session")
def first(tmp_path_factory: pytest.TempPathFactory) -> FirstRun:
    """The small recipe, run in this process."""
    run = _written(tmp_path_factory.mktemp("first"))
    return FirstRun(run, *pipeline.run(recipe.load(run.file), run.output))


@pytest.fixture(scope="session")
def second(tmp_path_factory: pytest.TempPathFactory) -> SecondRun:
    """The same recipe, run by the command line in a process and a folder of its own."""
    run = _written(tmp_path_factory.mktemp("second"))
    command = [sys.executable, ROOT / "cli.py", "run", run.file, "--output", run.output, "--json"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    return SecondRun(run, Outcome(ended.returncode, ended.stdout, ended.stderr))


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Exported]:
    """exported("gpt2"): a small random decoder of an architecture, exported once."""
    from tests.decoders import Exported  # torch and transformers, which most tests do without

    return functools.cache(lambda name: Exported.of(name, tmp_path_factory.mktemp(name)))
