"""The whole way on the built-in model: reproducible to the byte, resumed after a kill, the same by single commands."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from compressor import artifact, pipeline, planning
from compressor.errors import RequestError
from compressor.quantize.gptq import Factorised, Gptq, NotPositiveDefiniteError
from compressor.recipe import recipe
from tests.conftest import ROOT, SMALL, FirstRun, Outcome, Run, SecondRun

Compress = Callable[..., Outcome]
PATIENCE = 300  # seconds until a stage appears; a busy machine takes its time


def tree(folder: Path) -> dict[str, bytes]:
    """Every file that must be equal for equal inputs: all but report.json and report.md, which hold times."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.stem != "report")
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def same(one: Run, other: Run) -> bool:
    return tree(one.output) == tree(other.output) and tree(one.stages) == tree(other.stages)


def option(section: str) -> str:
    """A section of the small recipe, as a single command takes it."""
    return f"--set={section}={json.dumps(SMALL[section])}"


def with_stages(small: Run, given: Run, *names: str) -> Run:
    """A run that finds some stages already there."""
    for name in names:
        shutil.copytree(given.stage(name), small.stages / given.stage(name).name)
    return small


# --- reproducible ----------------------------------------------------------------------------------------------------


def test_two_runs_in_two_folders_and_processes_make_the_same_bytes(first: FirstRun, second: SecondRun) -> None:
    assert second.outcome.code == 0, second.outcome.err
    assert same(first.run, second.run)


def test_the_manifest_is_true_of_every_file(first: FirstRun) -> None:
    for folder in (first.run.output, *first.run.stages.iterdir()):
        entries = json.loads((folder / "manifest.json").read_bytes())["files"]
        files = tree(folder)
        assert files.pop("manifest.json")
        assert entries == {
            name: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
            for name, content in files.items()
        }


def test_the_manifest_says_what_the_artifact_was_made_of(first: FirstRun) -> None:
    manifest = first.made.manifest
    assert manifest["options"] == recipe.load(first.run.file).resolved()
    assert manifest["input"]["model"] == "builtin:tiny-lm"
    assert "model.safetensors" in manifest["input"]["files"]
    assert manifest["input"]["calibration"]["tokens"] == 4 * 32
    assert manifest["versions"] == artifact.versions()
    assert str(first.run.output.parent) not in json.dumps(manifest)


def test_the_report_says_how_it_went(first: FirstRun) -> None:
    report = json.loads((first.run.output / "report.json").read_bytes())
    assert report["verdict"] == first.report.verdict(strict=False) == "passed"
    assert [row["stage"] for row in report["stages"]] == ["export", "optimize", "quantize", "package", "validate"]
    assert len(report["layers"]) == 7  # q, k, v, o, gate, up, down of the one layer that SMALL leaves in
    assert (first.run.output / "report.md").read_text().startswith("# Report: passed\n")


# --- resumed ---------------------------------------------------------------------------------------------------------


def kill_when(run: Run, pattern: str) -> None:
    """Start a run and kill it, SIGKILL, as soon as a file or folder appears among its stages."""
    command = [sys.executable, ROOT / "cli.py", "run", run.file, "--output", run.output]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + PATIENCE
        while not any(run.stages.glob(pattern)):
            assert process.poll() is None, f"the run ended before {pattern} appeared"
            assert time.monotonic() < end, f"{pattern} did not appear"
            time.sleep(0.001)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def test_a_run_killed_again_and_again_ends_in_the_same_bytes(first: FirstRun, small: Run) -> None:
    for pattern in (".export-*", "export-*", "optimize-*", ".quantize-*/qtensors/*", "package-*"):
        kill_when(small, pattern)
        assert not small.output.exists(), pattern
    _, report = pipeline.run(recipe.load(small.file), small.output)
    assert [row["reused"] for row in report.stages] == [True, True, True, True, False]
    assert same(first.run, small)


def test_a_finished_run_is_run_again_from_its_stages(first: FirstRun, small: Run) -> None:
    with_stages(small, first.run, *pipeline.STAGES)
    for _ in range(2):
        _, report = pipeline.run(recipe.load(small.file), small.output)
        assert [row["reused"] for row in report.stages] == [True, True, True, True, False]
        assert same(first.run, small)


# --- planned ---------------------------------------------------------------------------------------------------------


def test_a_plan_writes_nothing_and_names_the_places_that_a_run_fills(first: FirstRun, small: Run) -> None:
    before = planning.plan(recipe.load(small.file), small.output)
    assert os.listdir(small.output.parent) == [small.file.name]
    assert [step.reused for step in before] == [False] * 4
    after = planning.plan(recipe.load(first.run.file), first.run.output)
    assert {step.place for step in after} == set(first.run.stages.iterdir())
    assert [replace(step, place=step.place.name, reused=False) for step in after] == [
        replace(step, place=step.place.name) for step in before
    ]
    assert all(step.reused for step in after)


def test_a_plan_foretells_the_disk_within_a_third(first: FirstRun) -> None:
    """A third: what compressor/estimate.py promises."""
    for step in planning.plan(recipe.load(first.run.file), first.run.output):
        made = artifact.open_artifact(step.place)
        assert step.disk_bytes == pytest.approx(made.nbytes, rel=1 / 3), step.stage


@pytest.mark.parametrize(
    ("override", "kept"),
    [
        ("export.opset=22", 0),
        ("optimize.passes=[dead-node-elimination]", 1),
        ("quantize.gptq.damping=0.02", 2),
        ("calibration.seed=1", 2),
        ("package.accuracy_level=4", 3),
        ("validate.perplexity.tokens=300", 4),
    ],
)
def test_an_option_is_seen_by_its_own_stage_and_those_behind(first: FirstRun, override: str, kept: int) -> None:
    steps = planning.plan(recipe.load(first.run.file, [override]), first.run.output)
    assert [step.reused for step in steps] == [True] * kept + [False] * (4 - kept)


def test_a_solver_that_looks_at_data_depends_on_the_file_and_rounding_does_not(small: Run) -> None:
    text = small.file.with_name("a.txt")

    def places(content: str, *overrides: str) -> list[Path]:
        text.write_text(content)
        chosen = recipe.load(small.file, [f"calibration.source={text}", *overrides])
        return [step.place for step in planning.plan(chosen, small.output)]

    one, other = places("one"), places("other")
    assert one[:2] == other[:2]
    assert not set(one[2:]) & set(other[2:])
    rounding = ("quantize.gptq=null", "quantize.rtn.bits=4")
    assert places("one", *rounding) == places("other", *rounding)


# --- by single commands ----------------------------------------------------------------------------------------------


def test_single_commands_make_the_same_bytes_as_a_run(first: FirstRun, tmp_path: Path, compress: Compress) -> None:
    exported, optimized, packaged = (tmp_path / name for name in ("exported", "optimized", "packaged"))
    assert compress("export", "builtin:tiny-lm", "-o", exported).code == 0
    assert compress("optimize", exported, "-o", optimized, "--for", "cpu").code == 0
    assert compress("quantize", optimized, "-o", packaged, option("quantize"), option("calibration")).code == 0
    (quantized,) = Run(first.run.file, packaged).stages.iterdir()
    made = (exported, optimized, quantized, packaged)
    for name, folder in zip(pipeline.STAGES, made, strict=True):
        assert tree(folder) == tree(first.run.stage(name)), name
    assert (packaged / "model.onnx").read_bytes() == first.made.model.read_bytes()


def test_validate_measures_what_the_run_measured(first: FirstRun, tmp_path: Path, compress: Compress) -> None:
    place, export = tmp_path / "report", first.run.stage("export")
    ended = compress("validate", first.run.output, "--against", export, "-o", place, "--json", option("validate"))
    assert ended.code == 0, ended.err
    measured = {row["name"]: row for row in ended.json()["measurements"]}
    expected = {one.name: one.row() for one in first.report.measurements if one.name != "flagged layers"}
    assert measured == expected
    assert json.loads((place / "report.json").read_bytes())["verdict"] == "passed"
    assert (place / "report.md").is_file()


# --- fallen back -----------------------------------------------------------------------------------------------------


def never_positive_definite(self: Gptq, moment: object) -> Factorised:
    raise NotPositiveDefiniteError("not positive definite with damping 100")


def test_strict_counts_a_layer_that_fell_back(
    first: FirstRun, small: Run, compress: Compress, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Gptq, "factorise", never_positive_definite)
    with_stages(small, first.run, "export", "optimize")
    lenient = compress("run", small.file, "-o", small.output)
    assert lenient.code == 0
    assert "fallback: model.layers.0.self_attn.q_proj.weight: rounded, not positive definite" in lenient.out
    strict = compress("run", small.file, "-o", small.output, "--strict")
    assert (strict.code, strict.err.splitlines()[-1]) == (1, "compress: fell back 7 times")
    assert "# Report: fell back 7 times" in (small.output / "report.md").read_text()
    again = compress("quantize", small.stage("optimize"), "-o", small.output, "--strict", option("quantize"))
    assert (again.code, again.err.splitlines()[-1]) == (1, "compress: 7 fallbacks; --strict counts each")


# --- a bare file -----------------------------------------------------------------------------------------------------


@pytest.fixture
def perceptron(tmp_path: Path) -> Path:
    model = onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["": 21]>
        perceptron (float[batch, 64] x) => (float[batch, 32] y) {
            hidden = MatMul(x, w0)
            rectified = Relu(hidden)
            y = MatMul(rectified, w1)
        }""")
    rng = np.random.default_rng(0)
    for name, shape in {"w0": (64, 128), "w1": (128, 32)}.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(rng.standard_normal(shape, np.float32), name))
    path = tmp_path / "perceptron.onnx"
    onnx.save(model, path)
    return path


def test_rounding_works_on_a_bare_file(perceptron: Path, tmp_path: Path, compress: Compress) -> None:
    ended = compress("quantize", perceptron, "-o", tmp_path / "out", "--method", "rtn", "--set=quantize.rtn.bits=8")
    assert ended.code == 0, ended.err
    x = np.random.default_rng(1).standard_normal((5, 64), np.float32)
    before, after = (
        ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
        for path in (perceptron, tmp_path / "out" / "model.onnx")
    )
    # 8 bits: a step is 1/127 of a group's largest weight; errors of half a step add up like a walk, to below 1 %.
    assert np.linalg.norm(after - before) < 0.01 * np.linalg.norm(before)
    assert not np.array_equal(after, before)


def test_gptq_on_a_graph_that_reads_no_text_is_a_wrong_request(
    perceptron: Path, tmp_path: Path, compress: Compress
) -> None:
    ended = compress("quantize", perceptron, "-o", tmp_path / "out")
    assert ended.code == 2
    assert ended.err.endswith(
        "the graph reads no text; name an .npz file with an array for each of x, or a folder of pictures\n"
    )
    assert not (tmp_path / "out").exists()


def test_a_graph_without_weights_is_a_wrong_request(perceptron: Path, tmp_path: Path, compress: Compress) -> None:
    ended = compress("quantize", perceptron, "-o", tmp_path / "out", "--method", "rtn", "--set=quantize.exclude=[w]")
    assert ended.code == 2
    assert "no weight to quantize" in ended.err


# --- refused before any work -----------------------------------------------------------------------------------------


def test_a_foreign_output_is_refused_before_any_work(small: Run) -> None:
    small.output.mkdir()
    (small.output / "thesis.txt").touch()
    with pytest.raises(RequestError, match=r"holds thesis\.txt, which is not ours"):
        pipeline.run(recipe.load(small.file), small.output)
    assert not small.stages.exists()


@pytest.mark.parametrize("form", ["gptq", "compressed_tensors"])
def test_a_run_can_end_in_a_checkpoint_that_was_measured_as_a_graph(form: str, first: FirstRun, small: Run) -> None:
    given = with_stages(small, first.run, "export", "optimize")
    chosen = recipe.load(given.file, [f"package.format={form}", "quantize={rtn: {}, exclude: [lm_head]}"])
    made, report = pipeline.run(chosen, given.output)
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= set(made.manifest["files"])
    assert not (given.output / "model.onnx").exists()
    config = json.loads((given.output / "config.json").read_text())
    assert config["quantization_config"]["quant_method"] == form.replace("_", "-")
    assert {one.name for one in report.measurements} >= {"perplexity", "KL to reference", "size ratio"}
    assert report.verdict(strict=True) == "passed"
