"""Modules, saved programs and lone graphs: each becomes an artifact that answers as its origin does."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from compressor import artifact, pipeline, sources
from compressor.artifact import Artifact
from compressor.errors import MachineError, RequestError
from compressor.export import archive
from compressor.graph.session import load_model, open_session
from compressor.recipe import recipe
from compressor.shelf import Shelf
from tests import architectures, factories
from tests.conftest import Outcome

# Sums of 27 products of float32 in another order, on values of about 1.
CLOSE = {"rtol": 0, "atol": 1e-5}


def export(model: str | Path, place: Path, **options: object) -> Artifact:
    request = recipe.build({"model": str(model), "export": options})
    return pipeline.export(sources.find(str(model)), request, Shelf(place, exact=True))


def shapes(made: Artifact) -> dict[str, list[int | str]]:
    values = (*load_model(made.model).graph.inputs, *load_model(made.model).graph.outputs)
    return {str(v.name): [size if isinstance(size, int) else str(size) for size in v.shape] for v in values}


def assert_answers_as_torch(made: Artifact, module: nn.Module, batch: int, size: int) -> None:
    rng = np.random.default_rng(batch)
    image, scale = (rng.normal(size=shape).astype(np.float32) for shape in ((batch, 3, size, size), (batch, 1)))
    (found,) = open_session(made.model, "exact").run(["logits"], {"image": image, "scale": scale})
    with torch.no_grad():
        expected = module.eval()(torch.from_numpy(image), torch.from_numpy(scale))["logits"]
    np.testing.assert_allclose(found, expected.numpy(), **CLOSE)


def module() -> nn.Module:
    torch.manual_seed(0)
    return factories.Cnn()


# --- a factory -------------------------------------------------------------------------------------------------------


def test_a_module_from_a_factory(tmp_path: Path) -> None:
    """In evaluation mode, though the factory left it training; the batch is free, and its one row was not kept."""
    made = export("torch:tests.factories:cnn", tmp_path / "out")
    assert shapes(made) == {"image": ["batch_size", 3, 8, 8], "scale": ["batch_size", 1], "logits": ["batch_size", 5]}
    assert "Dropout" not in {node.op_type for node in load_model(made.model).graph}
    assert_answers_as_torch(made, module(), 5, 8)


def test_axes_that_a_factory_frees_are_free(tmp_path: Path) -> None:
    made = export("torch:tests.factories:cnn_of_any_size", tmp_path / "out")
    assert shapes(made)["image"] == ["batch_size", 3, "height", "width"]
    assert_answers_as_torch(made, module(), 1, 13)


def test_a_factory_is_known_by_its_code_and_its_weights() -> None:
    first, again = (sources.find("torch:tests.factories:cnn") for _ in range(2))
    assert (first.sha256, first.files.keys()) == (again.sha256, {"factories.py", "weights"})


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("torch:tests.factories", "write a factory as torch:package.module:function"),
        ("torch:tests.factories:missing", "has no attribute 'missing'"),
        ("torch:tests.nowhere:cnn", "No module named 'tests.nowhere'"),
        ("torch:tests.factories:without_inputs", "returns Cnn; return (module, inputs) or (module, inputs, axes)"),
        ("torch:tests.factories:failing", "the factory fails: ValueError: no weights here"),
        ("torch:tests.factories:refused", "Refused uses aten._linalg_eigh, which has no form in ONNX"),
    ],
)
def test_a_factory_that_will_not_do_is_told_in_one_line(
    compress: Callable[..., Outcome], tmp_path: Path, name: str, line: str
) -> None:
    outcome = compress("export", name, "-o", tmp_path / "out")
    assert (outcome.code, outcome.out) == (2, "")
    assert line in outcome.err.splitlines()[-1]
    assert not (tmp_path / "out").exists()


# --- a program of torch.export ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its batch is free from 2 to 64, and an input goes by name."""
    path, rows = tmp_path_factory.mktemp("program") / "cnn.pt2", torch.export.Dim("rows", min=2, max=64)
    shapes = {"image": {0: rows}, "scale": {0: rows}}
    inputs = ((torch.randn(2, 3, 8, 8),), {"scale": torch.randn(2, 1)})
    torch.export.save(torch.export.export(module().eval(), *inputs, dynamic_shapes=shapes), path)
    return path


def test_a_saved_program(program: Path, tmp_path: Path) -> None:
    made = export(program, tmp_path / "out")
    assert shapes(made) == {"image": ["batch_size", 3, 8, 8], "scale": ["batch_size", 1], "logits": ["batch_size", 5]}
    assert_answers_as_torch(made, module(), 5, 8)


class Touch:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("place", ["sample_inputs", "expression", "constant", "weights"])
def test_a_program_that_would_run_code_is_refused_and_runs_none(program: Path, tmp_path: Path, place: str) -> None:
    spoiled, proof = tmp_path / "spoiled.pt2", tmp_path / "ran"
    code = f"__import__('pathlib').Path('{proof}').touch()"
    hostile = io.BytesIO()
    torch.save({"x": Touch(proof)}, hostile)
    payload = {"path_name": "weight_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
    with zipfile.ZipFile(program) as old, zipfile.ZipFile(spoiled, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if place == "sample_inputs" and name.endswith("sample_inputs/model.pt"):
                content = hostile.getvalue()
            if place == "expression" and name.endswith("models/model.json"):
                content = json.dumps(_with_expression(json.loads(content), code)).encode()
            if place == "constant" and name.endswith("constants_config.json"):
                content = json.dumps({"config": {"c": payload | {"path_name": "opaque_obj_0"}}}).encode()
            if place == "weights" and name.endswith("weights_config.json"):
                content = json.dumps({"config": {"w": payload}}).encode()
            new.writestr(
                name, pickle.dumps(Touch(proof)) if place == "weights" and name.endswith("weight_0") else content
            )
    with pytest.raises(RequestError, match=r"refused\. Save the program again from its own code$"):
        export(spoiled, tmp_path / "out")
    assert not proof.exists()


def _with_expression(value: object, text: str) -> object:
    if isinstance(value, dict):
        return {key: text if key == "expr_str" else _with_expression(one, text) for key, one in value.items()}
    return [_with_expression(one, text) for one in value] if isinstance(value, list) else value


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("Symbol('s77', positive=True, integer=True)", True),
        ("Add(Integer(1), Mul(Integer(-2), Symbol('u0')))", True),
        ("s0 + 2*s1", True),
        ("Symbol('s0').__class__", False),
        ("eval('1')", False),
        ("Add('__import__(1)')", False),
        ("(lambda: 1)()", False),
        ("[x for x in (1,)]", False),
    ],
)
def test_an_expression_is_arithmetic_or_refused(text: str, plain: bool) -> None:
    assert archive._is_arithmetic(text) is plain


def test_a_file_that_is_no_program_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.pt2").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(RequestError, match=r"a\.pt2: not a whole \.pt2 file"):
        export(tmp_path / "a.pt2", tmp_path / "out")


# --- a lone graph ----------------------------------------------------------------------------------------------------

OLD = """
    <ir_version: 6, opset_import: ["": 11]>
    old (float[N, 4] x, float[4] w) => (float[N, 1] y, float[N, 4] z) <float[4] w = {1, 2, 3, 4}> {
        scaled = Mul(x, w)
        y = ReduceSum<axes = [1], keepdims = 1>(scaled)
        z = Dropout<ratio = 0.5>(scaled)
    }"""


def test_a_lone_graph_is_raised_to_the_wanted_opset(tmp_path: Path) -> None:
    """ReduceSum has its axes as an input since opset 13, Dropout its ratio."""
    path = tmp_path / "old.onnx"
    onnx.save(onnx.parser.parse_model(OLD), path)
    made = export(path, tmp_path / "out")
    model = load_model(made.model)
    assert (model.opset_imports[""], model.ir_version, made.facts["fallbacks"]) == (21, 10, [])
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    before, after = (
        open_session(one, "exact").run(None, {"x": x, "w": np.ones(4, np.float32)}) for one in (path, made.model)
    )
    for expected, found in zip(before, after, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_a_graph_that_cannot_be_raised_stays_and_says_so(compress: Callable[..., Outcome], tmp_path: Path) -> None:
    """It runs on multiples of a prime alone, which nobody would think of: nothing can be proven of it."""
    path = tmp_path / "odd.onnx"
    text = """<ir_version: 6, opset_import: ["": 11]> odd (float[N] x) => (float[7919, M] y) <int64[2] s = {7919, -1}>
        { y = Reshape(x, s) }"""
    onnx.save(onnx.parser.parse_model(text), path)
    outcome = compress("export", path, "-o", tmp_path / "out")
    assert outcome.code == 0
    assert "stays at opset 11" in outcome.err
    assert artifact.open_artifact(tmp_path / "out").facts["fallbacks"]
    assert compress("export", path, "-o", tmp_path / "strict", "--strict").code == 1


@pytest.mark.parametrize("hostile", [False, True])
def test_a_pickle_is_read_where_it_holds_tensors_alone(tmp_path: Path, hostile: bool) -> None:
    folder, proof = architectures.write("resnet", tmp_path / "model"), tmp_path / "ran"
    weights = load_file(folder / "model.safetensors")
    torch.save({**weights, "x": Touch(proof)} if hostile else weights, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    if hostile:
        with pytest.raises(RequestError, match="transformers cannot load it for image-classification"):
            export(folder, tmp_path / "out")
    else:
        assert export(folder, tmp_path / "out").facts["task"] == "image-classification"
    assert not proof.exists()


def test_a_corrupt_shard_is_told(tmp_path: Path) -> None:
    folder = architectures.write("resnet", tmp_path / "model")
    shard = folder / "model.safetensors"
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(
        RequestError, match=r"^[^\n]+model.safetensors: not a whole safetensors file[^\n]+download it again$"
    ):
        export(folder, tmp_path / "out")


def test_the_types_of_a_file_are_its_own(program: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"has its types already; leave export\.dtype out"):
        export(program, tmp_path / "out", dtype="float16")
    with pytest.raises(RequestError, match=r"export\.task chooses the class of a checkpoint, and this is none"):
        export(program, tmp_path / "out", task="fill-mask")


# --- the machine -----------------------------------------------------------------------------------------------------


def test_a_full_disk_is_told_before_anything_is_written(
    program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 100})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(MachineError, match=r"GB will be written and 0\.0 GB are free"):
        export(program, tmp_path / "out")
    assert not (tmp_path / "out").exists()
