"""`compress optimize`: several files; and `--dtype`: half the bytes, as the target can run, proven within the type."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from compressor import sources
from compressor.catalog import TARGETS
from compressor.graph.session import load_model, save_model
from compressor.providers import prediction
from compressor.recipe import recipe
from compressor.shelf import Shelf
from compressor.stages import optimizing
from tests import graphs
from tests.conftest import Outcome

Compress = Callable[..., Outcome]


@pytest.fixture
def perceptron(tmp_path: Path) -> Path:
    text = "(float[N,64] x) => (float[N,8] y) { h = MatMul(x, v)  a = Relu(h)  y = MatMul(a, w) }"
    path = tmp_path / "model.onnx"
    save_model(graphs.build(text, v=graphs.normal(64, 64), w=graphs.normal(64, 8)), path)
    return path


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_weights_take_half_the_bytes(perceptron: Path, tmp_path: Path, dtype: str, compress: Compress) -> None:
    out = tmp_path / "out"
    assert compress("optimize", perceptron, "-o", out, "--for", "cuda", "--dtype", dtype, "--strict").code == 0
    model = load_model(out / "model.onnx")
    assert sum(value.const_value.nbytes for value in model.graph.initializers.values()) == 2 * (64 * 64 + 64 * 8)
    assert [value.dtype for value in (*model.graph.inputs, *model.graph.outputs)] == [ir.DataType.FLOAT] * 2
    assert not prediction.predict(model, "cuda").fallbacks


def test_refused_in_one_line_on_the_cpu(perceptron: Path, tmp_path: Path, compress: Compress) -> None:
    ended = compress("optimize", perceptron, "-o", tmp_path / "out", "--for", "cpu", "--dtype", "float16")
    assert ended.code == 2
    assert ended.err.startswith("compress: optimize.dtype: float16: ONNX Runtime's CPU provider has no MatMul")
    assert len(ended.err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_what_overflows_is_rolled_back_and_fails_under_strict(tmp_path: Path, compress: Compress) -> None:
    text = "(float[2,64] x) => (float[2,4] y) { h = MatMul(x, v)  a = Relu(h)  y = MatMul(a, w) }"
    path = tmp_path / "model.onnx"
    save_model(graphs.build(text, v=graphs.normal(64, 8) * 1e4, w=graphs.normal(8, 4) * 1e-4), path)
    ended = compress("optimize", path, "-o", tmp_path / "out", "--dtype", "float16", "--strict")
    assert ended.code == 1
    assert "HalfPrecision rolled back" in ended.err
    found = {value.dtype for value in load_model(tmp_path / "out" / "model.onnx").graph.initializers.values()}
    assert found == {ir.DataType.FLOAT}


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_alone_is_the_recipe_that_names_no_more(target: str, perceptron: Path) -> None:
    """The short way of the command line ends at the artifact that the long way makes: the keys are equal."""
    whole = recipe.build({"model": str(perceptron), "target": target})
    assert optimizing.key("input", optimizing.Target(target)) == optimizing.key("input", whole)


def test_the_type_is_part_of_the_key(perceptron: Path) -> None:
    data = {"model": str(perceptron), "target": "cuda"}
    keys = {
        optimizing.key("input", recipe.build(data | {"optimize": {"dtype": dtype}}))[0]
        for dtype in (None, "float16", "bfloat16")
    }
    assert len(keys) == 3


@pytest.mark.parametrize("name", ["bert", "resnet"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_networks_of_transformers(name: str, dtype: str, networks: Callable[[str], Path], tmp_path: Path) -> None:
    """Exported in float32; nothing is rolled back, all that takes time is half, and one cast is paid at each border."""
    wanted = recipe.build({"model": "x", "target": "generic", "optimize": {"dtype": dtype}})
    made = optimizing.optimize(sources.open_input(networks(name)), wanted, Shelf(tmp_path / "out", exact=True))
    assert made.facts["fallbacks"] == []
    model = load_model(made.model)
    heavy = [node for node in model.graph if node.op_type in ("MatMul", "Gemm", "Conv")]
    half = [node for node in heavy if node.outputs[0].dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)]
    expected = 0 if (name, dtype) == ("resnet", "bfloat16") else len(heavy)  # the standard's Conv of opset 21 has none
    assert len([node for node in half if node.op_type == "Conv" or dtype == "float16" or name == "bert"]) == expected
    assert np.isfinite(made.measured()["passes"][-1]["worst_difference"] or 0.0)


@pytest.fixture(scope="session")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    from compressor import pipeline
    from tests import test_target_recipes as small

    def exported(name: str) -> Path:
        folder = tmp_path_factory.mktemp(name)
        model = {"bert": small.bert, "resnet": small.resnet}[name](folder / "model")
        wanted = recipe.build({"model": str(model)})
        shelf = Shelf(folder / "exported", exact=True)
        return pipeline.export(sources.find(str(model)), wanted, shelf).directory

    known: dict[str, Path] = {}
    return lambda name: known.setdefault(name, exported(name)) if name not in known else known[name]


def test_several_files_go_into_folders_of_their_names(perceptron: Path, tmp_path: Path, compress: Compress) -> None:
    """The one that is refused keeps none of the others from being made, and decides the exit code."""
    broken, again = tmp_path / "broken.onnx", tmp_path / "again.onnx"
    broken.touch()
    shutil.copy(perceptron, again)
    ended = compress("optimize", perceptron, broken, again, "-o", tmp_path / "out")
    assert ended.code == 2
    assert [line for line in ended.err.splitlines() if "passes" not in line] == [
        f"compress: {broken}: not a readable ONNX model (its graph has no output)"
    ]
    assert sorted(one.name for one in (tmp_path / "out").iterdir()) == ["again", perceptron.stem]
    compress("optimize", perceptron, "-o", tmp_path / "alone")
    alone, beside = (folder / "model.onnx" for folder in (tmp_path / "alone", tmp_path / "out" / perceptron.stem))
    assert alone.read_bytes() == beside.read_bytes()


def test_several_files_are_told_in_one_document(perceptron: Path, tmp_path: Path, compress: Compress) -> None:
    broken = tmp_path / "broken.onnx"
    broken.touch()
    found = compress("optimize", perceptron, broken, "-o", tmp_path / "out", "--json").json()
    place = str(tmp_path / "out" / perceptron.stem)
    assert {where: one["artifact"] for where, one in found.items()} == {place: place}


def test_two_files_of_one_name_are_refused(perceptron: Path, tmp_path: Path, compress: Compress) -> None:
    other = tmp_path / "other" / perceptron.name
    other.parent.mkdir()
    shutil.copy(perceptron, other)
    ended = compress("optimize", perceptron, other, "-o", tmp_path / "out")
    place = tmp_path / "out" / perceptron.stem
    line = f"compress: {other}: goes to {place}, as {perceptron} does; run it with an output of its own\n"
    assert (ended.code, ended.err) == (2, line)
    assert not (tmp_path / "out").exists()


def test_a_file_of_newer_versions_is_compared_as_one_that_loads(tmp_path: Path, compress: Compress) -> None:
    path = tmp_path / "model.onnx"
    save_model(graphs.build("(float[2] x) => (float[2] y) { a = Identity(x)  y = Neg(a) }", 27, 14), path)
    assert compress("optimize", path, "-o", tmp_path / "out", "--strict").code == 0
    assert compress("optimize", tmp_path / "out" / "model.onnx", "-o", tmp_path / "again").code == 0


def test_nodes_of_one_name_get_names_of_their_own(tmp_path: Path, compress: Compress) -> None:
    """A file that ONNX Runtime itself does not load."""
    model = graphs.build("(float[2] x) => (float[2] y) { a = Relu(x)  b = Exp(a)  c = Neg(b)  y = Sin(c) }")
    for node, name in zip(model.graph, ("n", "n", "", "n_1"), strict=True):
        node.name = name
    save_model(model, tmp_path / "a.onnx")
    assert compress("optimize", tmp_path / "a.onnx", "-o", tmp_path / "out", "--strict").code == 0
    assert [node.name for node in load_model(tmp_path / "out" / "model.onnx").graph][::3] == ["n", "n_1"]


def test_what_the_runtime_says_is_told_without_its_sources(tmp_path: Path, compress: Compress) -> None:
    text = "(int32[2] x) => (int32[2] y) { y = Div(x, zero) }"
    path = tmp_path / "model.onnx"
    save_model(graphs.build(text, zero=np.zeros(2, np.int32)), path)
    ended = compress("optimize", path, "-o", tmp_path / "out")
    assert ended.code == 2
    assert ended.err.endswith("b_data[i] != T{0} was false. Integer division by zero\n")
    assert "onnxruntime_src" not in ended.err
