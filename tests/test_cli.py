"""Every outcome has its exit code and its one line; --json is one document on standard output and nothing beside it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest

import cli
from compressor.graph.session import save_model
from compressor.providers import environment
from compressor.recipe import recipe
from compressor.stages import optimizing
from tests import architectures, graphs
from tests.conftest import ROOT, SMALL, FirstRun, Outcome, Run, SecondRun

Compress = Callable[..., Outcome]


def complaint(outcome: Outcome) -> str:
    """What was said on standard error, one line, after the name of the program."""
    (line,) = outcome.err.splitlines()
    assert outcome.out == ""
    return line.removeprefix("compress: ")


# --- nothing of the user's is lost -----------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["optimize", "quantize"])
def test_what_is_made_does_not_take_the_place_of_its_input(command: str, tmp_path: Path, compress: Compress) -> None:
    for input_ in (tmp_path / "a" / ".." / "b", tmp_path / "b" / "model.onnx"):
        ended = compress(command, input_, "-o", tmp_path / "b")
        assert (ended.code, complaint(ended)) == (
            2,
            f"{tmp_path / 'b'}: holds the input itself, and would be replaced; choose another -o",
        )


def test_a_place_that_holds_something_else_is_refused_before_any_weight_is_solved(
    second: SecondRun, tmp_path: Path, compress: Compress
) -> None:
    place = tmp_path / "out"
    place.mkdir()
    (place / "thesis.txt").touch()
    ended = compress("quantize", second.run.stage("optimize"), "-o", place, "--method", "rtn")
    expected = f"{place}: holds thesis.txt, which is not ours; choose another output directory"
    assert (ended.code, complaint(ended)) == (2, expected)
    assert list(tmp_path.iterdir()) == [place]


HALF_WRITTEN = """
import time
from pathlib import Path
from compressor.command import ending
from compressor.shelf import Shelf

def command():
    with Shelf(Path("stages")).draft("export", "0" * 64, {}, {}) as draft:
        (draft.folder / "model.onnx").write_bytes(b"half")
        print("begun", flush=True)
        time.sleep(60)

ending.unwind_when_terminated()
ending.guarded(command)
"""


def test_a_run_that_is_told_to_end_takes_back_what_is_half_written(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HALF_WRITTEN]
    path = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True, env=path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        assert [one.name for one in tmp_path.rglob("*.onnx")] == ["model.onnx"]
        process.terminate()
        assert process.wait(30) == -signal.SIGTERM
    assert not [one for one in tmp_path.rglob("*") if one.is_file()]


# --- exit codes ------------------------------------------------------------------------------------------------------


def test_done_is_0_and_json_is_one_document(second: SecondRun) -> None:
    assert second.outcome.code == 0, second.outcome.err
    report = second.outcome.json()
    assert report["verdict"] == "passed"
    assert report["artifact"] == str(second.run.output)
    assert all(row["passed"] for row in report["measurements"])
    assert "export" in second.outcome.err  # progress


def test_a_missed_limit_is_1_and_the_report_is_there_all_the_same(first: FirstRun, compress: Compress) -> None:
    limits = SMALL["validate"] | {"size": {"max_ratio": 0.01}}
    pair = (first.run.output, "--against", first.run.stage("export"))
    ended = compress("validate", *pair, "--json", f"--set=validate={json.dumps(limits)}")
    assert (ended.code, ended.json()["verdict"]) == (1, "missed size ratio")
    assert ended.err.splitlines()[-1] == "compress: missed size ratio"


def test_a_fallback_of_packaging_fails_under_strict(tmp_path: Path, compress: Compress) -> None:
    """Attention with ALiBi has no operator that pages its cache."""
    graph, place = tmp_path / "graph", tmp_path / "out"
    assert compress("export", architectures.write("bloom", tmp_path / "checkpoint"), "-o", graph).code == 0
    ended = compress("quantize", graph, "-o", place, "--method", "rtn", "--strict")
    assert ended.code == 1
    assert "config.json names no longest sequence" in ended.err
    assert "2 fallbacks; --strict counts each" in ended.err
    assert not (place / "model.paged.onnx").exists()


def test_ci_gets_junit_a_summary_and_a_comparison(first: FirstRun, tmp_path: Path, compress: Compress) -> None:
    pair = (first.run.output, "--against", first.run.stage("export"))
    limits = f"--set=validate={json.dumps(SMALL['validate'] | {'perplexity': None})}"
    junit, summary, baseline = tmp_path / "ci" / "junit.xml", tmp_path / "summary.md", first.run.output / "report.json"
    summary.write_text("before\n")
    ended = compress(
        "validate", *pair, limits, "--junit", junit, "--summary", summary, "--baseline", baseline, "--json"
    )
    assert ended.code == 1
    assert "perplexity measured, perplexity increase measured" in ended.json()["verdict"]  # the baseline has them
    assert '<testcase classname="compress.measurements" name="KL to reference worse by">' in junit.read_text()
    assert summary.read_text().startswith("before\n# Report: missed ")


def test_a_wrong_request_is_2_and_a_line_without_traceback(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("# For nobody.\nmodel: builtin:tiny-lm\nquantize:\n  gptq: {bit: 4}\n")
    command = [sys.executable, ROOT / "cli.py", "run", path]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == f"compress: {path}:4: quantize.gptq: unknown field 'bit'. Did you mean 'bits'?\n"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("command", "code", "line"),
    [
        ("run quickstrt", 2, "quickstrt: no such recipe. Did you mean 'quickstart'?"),
        ("run nothing-of-ours", 2, "nothing-of-ours: no such recipe. Ours are "),
        (
            "run quickstart --set quantize.gptq.bit=3",
            2,
            "--set quantize.gptq.bit=3: quantize.gptq: unknown field 'bit'",
        ),
        ("run quickstart --model ./missing", 2, "./missing: no such folder"),
        ("export builtin:huge-lm -o out", 2, "builtin:huge-lm: no such built-in model; there is builtin:tiny-lm"),
        ("export nobody/nothing -o out", 3, "nobody/nothing: no such folder, and the hub cannot be asked for it"),
        ("quantize missing.onnx -o out", 2, "missing.onnx: no such file or folder"),
        ("quantize . -o out --method hqq", 2, "--method: quantize: unknown field 'hqq'. Known: rtn, gptq,"),
        ("quantize . -o out --budget 4.25", 2, "--budget 4.25: write it as bits=4.25"),
        ("optimize . -o out --for gpu", 2, "--for: target: 'gpu' is not one of generic, cpu, cuda, tensorrt."),
        ("validate . --against . --provider gpu", 2, "--provider: target: 'gpu' is not one of generic,"),
        ("export x -o out --static batch_size", 2, "--static batch_size: write it as axis=size, e.g. batch_size=1"),
        ("run .", 2, ".: cannot be read (Is a directory)."),
        ("run quickstart --dry-run --baseline notes.txt", 2, "notes.txt: no report.json of compress ("),
        ("quantize . -o out", 2, ".: no artifact (manifest.json is missing or not ours)"),
        ("validate missing --against missing", 2, "missing: no such file or folder"),
        ("inspect notes.txt", 2, "notes.txt: not an .onnx file"),
        ("inspect", 2, "Missing argument 'artifact'. Try `compress inspect --help`."),
        ("quantize -o out", 2, "Missing argument 'input'. Try `compress quantize --help`."),
        ("validate out --against out -o notes.txt", 2, "Invalid value for '-o'"),
        ("optmize", 2, "No such command 'optmize'. Did you mean 'optimize'? Try `compress --help`."),
        (
            "bench . --batch x",
            2,
            "Invalid value for '--batch': Input should be a valid integer, unable to parse string as"
            " an integer. Try `compress bench --help`.",
        ),
        ("run quickstart --fast", 2, "No such option: --fast"),
        ("bench . --serving --batch 2", 2, "--batch: --serving has streams in their place; leave it out"),
        ("bench . --serving --repeats 10", 2, "--repeats: --serving has streams in their place; leave it out"),
        ("bench . --streams 2", 2, "--streams: it goes with --serving"),
        ("bench . --new-tokens 32", 2, "--new-tokens: it goes with --serving"),
    ],
)
def test_a_request_that_cannot_be_met_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compress: Compress, command: str, code: int, line: str
) -> None:
    (tmp_path / "notes.txt").touch()
    monkeypatch.chdir(tmp_path)
    ended = compress(*command.split())
    assert ended.code == code
    assert complaint(ended).startswith(line)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_an_unknown_dataset_is_told_before_anything_is_solved(
    first: FirstRun, tmp_path: Path, compress: Compress
) -> None:
    optimized = first.run.stage("optimize")
    ended = compress("quantize", optimized, "-o", tmp_path / "out", "--calibration", "nobody/nothing")
    assert ended.code == 3
    assert complaint(ended).startswith("nobody/nothing: the hub cannot be reached")


def test_every_finding_of_a_recipe_is_a_line(tmp_path: Path, compress: Compress) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("modle: x\nexport: {opset: 20}\n")
    ended = compress("run", path)
    assert ended.code == 2
    assert [line.split(": ")[1] for line in ended.err.splitlines()] == [str(path), f"{path}:1", f"{path}:2"]


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ZeroDivisionError("half\na story"), 70, "this is a bug in compress: ZeroDivisionError: half"),
        (MemoryError(), 3, "out of memory; fewer samples, smaller batches or a machine with more would help"),
    ],
    ids=["bug", "memory"],
)
def test_what_nobody_asked_for_has_its_code(
    monkeypatch: pytest.MonkeyPatch, compress: Compress, error: BaseException, code: int, line: str
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(recipe, "schema", fail)
    ended = compress("recipes", "--schema")
    assert ended.code == code
    assert f"compress: {line}" in ended.err
    assert ("Traceback" in ended.err) is (code == 70)


@pytest.mark.parametrize(
    ("command", "kept"),
    [
        ("run", "; stages that are finished are kept, and the same command goes on from there"),
        ("quantize", "; stages that are finished are kept, and the same command goes on from there"),
        ("generate", "; the same command goes on with the prompts that have no answer"),
        *((name, "") for name in ("export", "optimize", "validate", "check", "bench", "recipes")),
    ],
)
def test_an_interrupt_says_what_is_kept(
    monkeypatch: pytest.MonkeyPatch, compress: Compress, command: str, kept: str
) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.commands.functions, command, interrupted)
    ended = compress(command)
    assert (ended.code, complaint(ended)) == (130, f"interrupted{kept}")


def test_of_several_inputs_those_before_an_interrupt_are_kept(
    monkeypatch: pytest.MonkeyPatch, compress: Compress, tmp_path: Path
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(optimizing, "optimize", interrupted)
    for name in "ab":
        save_model(graphs.build("(float[1] x) => (float[1] y) { y = Neg(x) }"), tmp_path / f"{name}.onnx")
    ended = compress("optimize", tmp_path / "a.onnx", tmp_path / "b.onnx", "-o", tmp_path / "out")
    assert (ended.code, complaint(ended)) == (130, "interrupted; the same command finds what is done already")


def test_no_command_shows_the_commands(compress: Compress) -> None:
    ended = compress()
    assert ended.code == 2
    _, _, listed = (ended.out + ended.err).partition("Commands:")
    assert "validate" in listed
    assert "..." not in listed, "the first sentence of a command's docstring fits into its line"


# --- what a command shows --------------------------------------------------------------------------------------------


def test_a_dry_run_writes_nothing(
    small: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compress: Compress
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = compress("run", small.file, "--dry-run", "--json")
    assert ended.code == 0, ended.err
    plan = ended.json()
    assert plan["output"] == "artifacts/small"
    assert [step["stage"] for step in plan["stages"]] == ["export", "optimize", "quantize", "package"]
    assert all(step["place"].startswith("artifacts/small.stages/") for step in plan["stages"])
    shown = compress("run", small.file, "-o", small.output, "--dry-run")
    assert shown.code == 0
    assert shown.out.count("to do") == 4
    assert list(tmp_path.iterdir()) == [small.file]


def test_a_dry_run_refuses_what_the_run_would(small: Run, tmp_path: Path, compress: Compress) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    for options in (("-o", tmp_path / "mine"), ("--strict", "--set", "export.trust_remote_code=true")):
        said = [complaint(compress("run", small.file, *options, *more)) for more in (["--dry-run"], [])]
        assert said[0] == said[1]


def test_what_is_printed_need_not_be_read_whole() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, ROOT / "cli.py", "recipes", "--schema"]
    ended = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (128 + signal.SIGPIPE, "")


def test_a_model_named_in_words_replaces_the_recipes(small: Run, compress: Compress) -> None:
    small.file.write_text(small.file.read_text().replace("builtin:tiny-lm", "./missing"))
    assert complaint(compress("run", small.file, "--dry-run")) == "./missing: no such folder"
    assert compress("run", small.file, "--model", "builtin:tiny-lm", "--dry-run", "--json").code == 0


def test_an_output_may_be_the_directory_one_stands_in(
    small: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compress: Compress
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    ended = compress("run", small.file, "-o", ".", "--dry-run", "--json")
    assert ended.code == 0, ended.err
    assert ended.json()["output"] == str(tmp_path / "here")


def test_recipes_lists_ours_with_their_first_line(compress: Compress) -> None:
    ended = compress("recipes", "--json")
    assert ended.code == 0
    assert set(ended.json()) == {path.stem for path in (ROOT / "recipes").glob("*.yaml")}
    assert all(text.startswith("For ") for text in ended.json().values())
    assert "quickstart" in compress("recipes").out


def test_recipes_schema_is_the_schema(compress: Compress) -> None:
    ended = compress("recipes", "--schema")
    assert ended.json() == recipe.schema()
    jsonschema.validate(SMALL, ended.json())


def test_inspect_shows_interface_operators_and_sizes(first: FirstRun, compress: Compress) -> None:
    ended = compress("inspect", first.run.output, "--json")
    assert ended.code == 0, ended.err
    facts = ended.json()
    assert (facts["stage"], facts["key"], facts["damaged"]) == ("run", first.made.key, [])
    assert facts["inputs"]["input_ids"].startswith("INT64[")
    assert facts["inputs"].keys() >= {"past_key_values.N.key", "past_key_values.N.value"}
    assert facts["operators"]["com.microsoft.MatMulNBits"] == 7
    assert facts["nodes"] == sum(facts["operators"].values())
    assert facts["bytes"] == sum(path.stat().st_size for path in first.run.output.glob("model.onnx*"))


def test_inspect_shows_names_in_brackets_as_they_are(first: FirstRun, compress: Compress) -> None:
    """Rich reads [batch] as markup unless it is told not to."""
    assert "[batch_size, sequence_length]" in compress("inspect", first.run.output).out


def test_inspect_finds_damage(first: FirstRun, small: Run, compress: Compress) -> None:
    place = small.output
    place.mkdir()
    for path in first.run.output.iterdir():
        (place / path.name).write_bytes(path.read_bytes())
    weights = place / "model.onnx.data"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    ended = compress("inspect", place, "--json")
    assert (ended.code, ended.json()["damaged"]) == (1, ["model.onnx.data"])
    assert ended.err == f"compress: {place}: model.onnx.data changed since the artifact was written\n"


def test_doctor_says_which_providers_really_load(monkeypatch: pytest.MonkeyPatch, compress: Compress) -> None:
    monkeypatch.setattr(environment, "_known", lambda: ["CPUExecutionProvider"])
    ended = compress("doctor", "--json")
    assert ended.code == 0, ended.err
    facts = ended.json()
    assert facts["providers"] == {"CPUExecutionProvider": "works"}
    assert facts["versions"]["compress"]
