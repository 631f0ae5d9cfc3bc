"""A line that is plainly right means what typer takes it to mean; typer is not loaded for it, and sees every other."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import cli
from compressor.command.arguments import Commands, NotPlainError, read
from compressor.errors import RequestError
from tests.conftest import ROOT


def recording(function: Callable[..., object]) -> Callable[..., dict[str, Any]]:
    """A command that does nothing but say what it was given."""

    @functools.wraps(function)
    def record(**given: Any) -> dict[str, Any]:
        return given

    return record


@pytest.fixture
def recorder() -> Commands:
    made = Commands(**cli.commands.settings)
    for function in cli.commands.functions.values():
        made.add(recording(function))
    return made


@pytest.mark.parametrize(
    "line",
    [
        "optimize a.onnx -o out",
        "optimize a.onnx b.onnx -o out --for cpu --explain --strict --json",
        "optimize -o out/../out a.onnx --for=cuda b.onnx --set optimize.dtype=float16 --set=target=cpu",
        "optimize ./a.onnx --output= --dtype bfloat16",
        "quantize in -o out --method rtn --calibration text.txt",
        "export builtin:tiny-lm -o out --static batch_size=1,sequence_length=128",
        "validate a --against b --junit ci/a.xml --summary s.md",
        "run quickstart --model m --dry-run --set a=b",
        "check a --for cuda",
        "diff a b --json",
        "inspect a",
        "doctor",
        "recipes --schema",
    ],
)
def test_a_plain_line_is_read_as_typer_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorder: Commands, line: str
) -> None:
    monkeypatch.chdir(tmp_path)
    command, *words = line.split()
    plain = read(recorder.functions[command], words)
    assert plain == recorder._run_by_typer([command, *words])
    assert recorder.run([command, *words]) == plain


@pytest.mark.parametrize(
    "line",
    [
        "optimize --help",
        "optimize a.onnx",
        "optimize -o out",
        "optimize a.onnx -o",
        "optimize a.onnx -oout",
        "optimize a.onnx -o=out",
        "optimize a.onnx -o out -o other",
        "optimize a.onnx -o out --fast",
        "optimize a.onnx -o out --json=yes",
        "optimize a.onnx -o out --for --json",
        "optimize -o out -- a.onnx",
        "diff a",
        "diff a b c",
        "export m -o out --opset 22",
        "serve folder",  # a key may come from the environment
        "validate a --against b -o notes.txt",  # must not be a file
    ],
)
def test_any_other_line_is_typers(recorder: Commands, line: str) -> None:
    command, *words = line.split()
    with pytest.raises(NotPlainError):
        read(recorder.functions[command], words)


def test_what_nobody_may_read_is_typers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorder: Commands) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(NotPlainError):
        read(recorder.functions["inspect"], [str(tmp_path)])


def test_a_number_reaches_its_command_by_way_of_typer(recorder: Commands) -> None:
    given: Any = recorder.run(["export", "m", "-o", "out", "--opset", "22"])
    assert (given["model"], given["opset"], given["set_"]) == ("m", 22, [])


def test_a_default_list_is_a_new_one_each_time(recorder: Commands) -> None:
    words = ["optimize", "a.onnx", "-o", "out"]
    first, second = recorder.run(words), recorder.run(words)
    assert isinstance(first, dict)
    assert isinstance(second, dict)
    assert first["set_"] is not second["set_"]


def test_typers_complaint_is_ours(recorder: Commands) -> None:
    with pytest.raises(RequestError, match=r"No such option: --fast.* Try `.* optimize --help`"):
        recorder.run(["optimize", "a.onnx", "-o", "out", "--fast"])


def test_a_line_without_words_is_answered_with_help(recorder: Commands, capsys: pytest.CaptureFixture[str]) -> None:
    assert recorder.run([]) == 2
    assert capsys.readouterr().out.lstrip().startswith("Usage: compress ")


@pytest.mark.parametrize(("words", "needed"), [(["recipes"], False), (["recipes", "--help"], True)])
def test_typer_is_loaded_where_a_line_needs_it(words: list[str], needed: bool) -> None:
    code = f"""
import sys, cli
try:
    cli.main({words})
except SystemExit as end:
    assert end.code == 0
print("typer" in sys.modules)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert result.stdout.splitlines()[-1] == str(needed)


def test_what_is_printed_is_delivered_or_fails() -> None:
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = [sys.executable, ROOT / "cli.py", "recipes"]
    told = subprocess.run(command, capture_output=True, text=True, check=True, env=buffered).stdout
    assert "quickstart" in told
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, env=buffered)
    assert ended.returncode == 120  # as Python has it
    assert "No space left on device" in ended.stderr
