"""Where a model comes from, and what is refused at the door: pickles, missing parts, data outside its own folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto
from safetensors.numpy import save_file

from compressor import artifact, sources
from compressor.errors import CompressError, MachineError, RequestError
from compressor.graph import session
from compressor.shelf import Shelf

WEIGHT = np.arange(64, dtype=np.float32)


def write_checkpoint(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (folder / "tokenizer.json").write_text("{}")
    save_file({"weight": WEIGHT}, folder / "model.safetensors")
    return folder


def write_graph(folder: Path, location: str = "model.onnx.data", *, offset: int = 0, length: int = 256) -> Path:
    """x + weight, the weight outside the file; written by hand, as one would who means no good."""
    weight = TensorProto(name="weight", dims=[64], data_type=1, data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, "offset": str(offset), "length": str(length)}.items():
        weight.external_data.add(key=key, value=value)
    model = onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["": 21]>
        sum (float[64] x) => (float[64] y) { y = Add(x, weight) }""")
    model.graph.initializer.append(weight)
    folder.mkdir(exist_ok=True)
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    path = write_graph(tmp_path / "graph")
    path.with_name("model.onnx.data").write_bytes(WEIGHT.tobytes())
    return path


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_bytes(WEIGHT.tobytes())
    return path


# --- checkpoints -----------------------------------------------------------------------------------------------------


def test_a_checkpoint_is_known_by_the_bytes_that_an_export_reads(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model")
    first = sources.find(str(folder))
    assert first.files.keys() == {"model.safetensors", "config.json", "tokenizer.json"}
    (folder / "README.md").write_text("a model")
    assert sources.find(str(folder)).sha256 == first.sha256
    for name in first.files:
        before = (folder / name).read_bytes()
        (folder / name).write_bytes(before + b" ")
        assert sources.find(str(folder)).sha256 != first.sha256, name
        (folder / name).write_bytes(before)


def test_two_places_of_one_checkpoint_are_one_source(tmp_path: Path) -> None:
    one, two = (sources.find(str(write_checkpoint(tmp_path / name))) for name in ("one", "two"))
    assert one.sha256 == two.sha256


@pytest.mark.parametrize(
    ("gone", "reason"),
    [
        ("config.json", r"no config\.json in .+; is it a Hugging Face model folder\?"),
        ("model.safetensors", r"no weights in .+; put model\.safetensors or pytorch_model\.bin there"),
    ],
)
def test_a_folder_without_its_parts_is_refused(tmp_path: Path, gone: str, reason: str) -> None:
    folder = write_checkpoint(tmp_path / "model")
    (folder / gone).unlink()
    with pytest.raises(RequestError, match=reason):
        sources.find(str(folder))


def test_a_file_is_no_model_folder(secret: Path) -> None:
    with pytest.raises(RequestError, match=r"is a file; a model is a folder with config\.json and safetensors"):
        sources.find(str(secret))


@pytest.mark.parametrize("name", ["./missing", "/missing/model", "~/missing", "missing/model/folder"])
def test_a_path_that_leads_nowhere_is_never_asked_of_the_hub(name: str) -> None:
    with pytest.raises(RequestError, match=f"^{name}: no such folder$"):
        sources.find(name)


def test_an_unknown_builtin_names_those_there_are() -> None:
    with pytest.raises(RequestError, match=r"^builtin:huge-lm: no such built-in model; there is builtin:tiny-lm$"):
        sources.find("builtin:huge-lm")


@pytest.mark.parametrize(
    ("name", "kind"), [("nobody/nothing", MachineError), ("not a name", RequestError)], ids=["offline", "malformed"]
)
def test_a_hub_id_that_cannot_be_had_is_told_in_one_line(name: str, kind: type[CompressError]) -> None:
    with pytest.raises(kind, match=rf"^{name}: n[^\n]+$"):
        sources.find(name)


def test_a_configuration_is_the_text_part_where_there_are_several(tmp_path: Path) -> None:
    assert sources.config(tmp_path) == {}
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": "gemma3", "text_config": {"max_position_embeddings": 512}}))
    assert sources.context(tmp_path) == 512
    path.write_text("{")
    with pytest.raises(RequestError, match=r"config\.json: not JSON: "):
        sources.config(tmp_path)


@pytest.mark.parametrize(
    ("config", "longest"),
    [
        ({"max_position_embeddings": 64, "n_ctx": 2}, 64),
        ({"n_positions": 128, "n_ctx": 2}, 128),
        ({"n_ctx": 32}, 32),
        ({"max_seq_len": 96}, 96),
    ],
)
def test_the_longest_sequence_is_the_models(config: dict[str, int], longest: int, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert sources.served_context(tmp_path) == (sources.context(tmp_path), []) == (longest, [])


def test_a_longest_sequence_that_no_model_names_is_said(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bloom"}')
    assert sources.context(tmp_path) is None
    names = "max_position_embeddings, n_positions, n_ctx, max_seq_len"
    said = f"config.json names no longest sequence ({names}): taken as 2048"
    assert sources.served_context(tmp_path) == (2048, [said])


# --- inputs of a command ---------------------------------------------------------------------------------------------


def test_an_artifacts_folder_is_opened_and_other_folders_are_refused(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "out", exact=True)
    with shelf.draft("export", artifact.key("export"), {}, {}):
        pass
    assert sources.open_input(shelf.root).stage == "export"
    with pytest.raises(RequestError, match="no artifact"):
        sources.open_input(tmp_path)


def test_an_artifact_for_another_engine_is_said_to_hold_no_graph(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "out", exact=True)
    with shelf.draft("package", artifact.key("package"), {}, {}) as draft:
        (draft.folder / "model.safetensors").touch()
    with pytest.raises(
        RequestError, match=r"out: holds model\.safetensors and no graph; name an \.onnx or an artifact"
    ):
        sources.open_input(shelf.root)


def test_a_graph_may_have_safetensors_beside_it(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "out", exact=True)
    with shelf.draft("quantize", artifact.key("quantize"), {}, {}) as draft:
        for name in ("model.onnx", "codes.safetensors"):
            (draft.folder / name).touch()
    assert sources.open_input(shelf.root).stage == "quantize"


@pytest.mark.parametrize(("name", "reason"), [("secret", "not an .onnx file"), ("missing", "no such file or folder")])
def test_other_files_are_refused(tmp_path: Path, secret: Path, name: str, reason: str) -> None:
    with pytest.raises(RequestError, match=f"{name}: {reason}$"):
        sources.open_input(tmp_path / name)


@pytest.mark.parametrize("name", ["model.onnx", "model.onnx.data", "config.json", "tokenizer.json"])
def test_the_key_of_a_bare_file_covers_all_that_belongs_to_it(graph: Path, name: str) -> None:
    write_checkpoint(graph.parent)
    first = sources.open_input(graph)
    path = graph.with_name(name)
    if name == "model.onnx":
        model = onnx.load(path, load_external_data=False)
        model.graph.name = "another"
        path.write_bytes(model.SerializeToString())
    else:
        path.write_bytes(path.read_bytes() + b" ")
    assert sources.open_input(graph).key != first.key


def test_the_key_of_a_bare_file_does_not_cover_its_neighbours(graph: Path) -> None:
    first = sources.open_input(graph)
    graph.with_name("other.onnx").touch()
    assert sources.open_input(graph).key == first.key


def test_what_is_done_meanwhile_is_told_how_much_is_hashed(graph: Path) -> None:
    told = list[int]()
    opened = sources.open_input(graph, told.append)
    assert told == [opened.nbytes]


def test_data_may_lie_in_folders_below_the_graph(tmp_path: Path) -> None:
    path = write_graph(tmp_path, "parts/a.data")
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "a.data").write_bytes(WEIGHT.tobytes())
    opened = sources.open_input(path)
    assert opened.nbytes == session.graph_nbytes(path) == path.stat().st_size + WEIGHT.nbytes


# --- external data ---------------------------------------------------------------------------------------------------


def test_a_graph_with_its_data_beside_it_is_read_and_runs(graph: Path) -> None:
    model = session.load_model(graph)
    weight = model.graph.initializers["weight"].const_value
    assert isinstance(weight, ir.ExternalTensor)
    assert np.array_equal(weight.numpy(), WEIGHT)
    for opened in (session.open_session(graph, "exact"), session.open_session(model, "exact")):
        assert np.array_equal(opened.run(None, {"x": WEIGHT})[0], 2 * WEIGHT)


@pytest.mark.parametrize("location", ["../secret", "parts/../../secret", "{folder}/secret"])
def test_data_outside_the_folder_is_refused(tmp_path: Path, secret: Path, location: str) -> None:
    path = write_graph(tmp_path / "graph", location.format(folder=secret.parent))
    with pytest.raises(RequestError, match="tensor 'weight' points outside the model's folder"):
        session.load_model(path)


@pytest.mark.parametrize("link", ["file", "folder"])
def test_a_link_out_of_the_folder_is_refused(tmp_path: Path, secret: Path, link: str) -> None:
    path = write_graph(tmp_path / "graph", "data" if link == "file" else "data/secret")
    path.with_name("data").symlink_to(secret if link == "file" else secret.parent)
    with pytest.raises(RequestError, match="tensor 'weight' points outside the model's folder"):
        session.load_model(path)


def test_a_link_inside_the_folder_is_followed(graph: Path) -> None:
    data = graph.with_name("model.onnx.data")
    data.rename(graph.with_name("real"))
    data.symlink_to("real")
    assert session.graph_nbytes(graph) == graph.stat().st_size + WEIGHT.nbytes


def test_missing_data_is_told(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"its data file model\.onnx\.data is missing; put it beside the model"):
        session.load_model(write_graph(tmp_path / "graph"))


@pytest.mark.parametrize(("offset", "length"), [(0, 257), (4, 256), (1 << 40, 256)])
def test_data_that_is_too_short_is_told(graph: Path, offset: int, length: int) -> None:
    write_graph(graph.parent, offset=offset, length=length)
    with pytest.raises(RequestError, match=r"its data file model\.onnx\.data is too short for tensor 'weight'"):
        session.load_model(graph)


@pytest.mark.parametrize("content", [b"", b"not a graph", b"\x08\x0a"], ids=["empty", "text", "no graph in it"])
def test_bytes_that_are_no_graph_are_told_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(content)
    with pytest.raises(RequestError) as caught:
        session.load_model(path)
    assert str(caught.value).startswith(f"{path}: not a readable ONNX model")
    assert "\n" not in str(caught.value)


def test_a_provider_that_is_not_here_is_the_machines_fault(graph: Path) -> None:
    with pytest.raises(MachineError, match=r"^NoSuchProvider is not in this onnxruntime .+; `compress doctor`"):
        session.open_session(graph, "served", backend=session.Backend((("NoSuchProvider", {}),)))


def test_a_graph_that_onnx_runtime_refuses_is_a_wrong_request(graph: Path) -> None:
    model = session.load_model(graph)
    model.graph[0].op_type = "NoSuchOperator"
    with pytest.raises(RequestError, match=r"^sum: ONNX Runtime cannot load it: .+NoSuchOperator"):
        session.open_session(model, "exact")
