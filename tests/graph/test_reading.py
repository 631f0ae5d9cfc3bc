"""What a file may hold beside dense weights of its own: sparse ones, and attributes whose data lies elsewhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, numpy_helper

from compressor.errors import RequestError
from compressor.graph.session import external_files, load_model, open_session
from tests import laws

WEIGHT = np.array([[0, 2, 0], [0, 0, -3]], np.float32)


def sparse(indices: list[object]) -> onnx.SparseTensorProto:
    made = onnx.SparseTensorProto(dims=WEIGHT.shape)
    made.values.CopyFrom(numpy_helper.from_array(np.array([2, -3], np.float32), "w"))
    made.indices.CopyFrom(numpy_helper.from_array(np.array(indices), ""))
    return made


def saved(path: Path, text: str) -> onnx.ModelProto:
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17, "own": 1]> {text}')
    path.parent.mkdir(exist_ok=True)
    return proto


ADD = "g (float[2,3] x) => (float[2,3] y) { y = Add(x, w) }"


@pytest.mark.parametrize("indices", [[1, 5], [[0, 1], [1, 2]]])
def test_a_sparse_weight_is_a_weight(tmp_path: Path, indices: list[object]) -> None:
    path = tmp_path / "model.onnx"
    proto = saved(path, ADD)
    proto.graph.sparse_initializer.append(sparse(indices))
    onnx.save(proto, path)
    feeds = {"x": np.ones((2, 3), np.float32)}
    np.testing.assert_array_equal(laws.run(load_model(path), feeds)["y"], WEIGHT + 1)


def test_a_sparse_weight_in_a_branch_is_one_too(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    text = """g (float[2,3] x, bool c) => (float[2,3] y) {
        y = If (c) <then_branch = t () => (float[2,3] a) { a = Add(x, w) }, else_branch = e () => (b) { b = Neg(x) }>
    }"""
    proto = saved(path, text)
    next(one.g for one in proto.graph.node[0].attribute if one.name == "then_branch").sparse_initializer.append(
        sparse([1, 5])
    )
    onnx.save(proto, path)
    feeds = {"x": np.ones((2, 3), np.float32), "c": np.array(True)}
    np.testing.assert_array_equal(laws.run(load_model(path), feeds)["y"], WEIGHT + 1)


def test_a_sparse_constant_is_a_constant(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    proto = saved(path, "g (float[2,3] x) => (float[2,3] y) { w = Constant()  y = Add(x, w) }")
    proto.graph.node[0].attribute.append(onnx.helper.make_attribute("sparse_value", sparse([1, 5])))
    onnx.save(proto, path)
    feeds = {"x": np.ones((2, 3), np.float32)}
    np.testing.assert_array_equal(laws.run(load_model(path), feeds)["y"], WEIGHT + 1)


def test_a_sparse_weight_of_a_wrong_place_is_no_model(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    proto = saved(path, ADD)
    proto.graph.sparse_initializer.append(sparse([1, 6]))
    onnx.save(proto, path)
    with pytest.raises(RequestError, match="not a readable ONNX model"):
        load_model(path)


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ("y = Add(x, k)", "k"),
        ("k = Neg(x)", "y"),
        ("y = If (c) <then_branch = t () => (float[2,3] a) { a = Neg(k) }>", "k"),
    ],
)
def test_what_nothing_makes_is_no_model(tmp_path: Path, body: str, name: str) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(saved(path, f"g (float[2,3] x, bool c) => (float[2,3] y) {{ {body} }}"), path)
    with pytest.raises(RequestError, match=f"nothing in it makes '{name}', which is read"):
        load_model(path)


def outside(location: str) -> TensorProto:
    made = TensorProto(name="k", data_type=TensorProto.FLOAT, dims=[3], data_location=TensorProto.EXTERNAL)
    made.external_data.add(key="location", value=location)
    return made


CONSTANT = "g (float[3] x) => (float[3] y) { k = Constant()  y = Add(x, k) }"
FUNCTION = """g (float[3] x) => (float[3] y) { y = own.f(x) }
    <domain: "own", opset_import: ["": 17]> f (a) => (b) { k = Constant()  b = Add(a, k) }"""


def constant_elsewhere(path: Path, text: str, location: str) -> None:
    proto = saved(path, text)
    nodes = proto.functions[0].node if proto.functions else proto.graph.node
    nodes[0].attribute.append(onnx.helper.make_attribute("value", outside(location)))
    np.arange(3, dtype=np.float32).tofile(path.parent / "k.bin")
    path.write_bytes(proto.SerializeToString())


@pytest.mark.parametrize("text", [CONSTANT, FUNCTION])
def test_data_of_an_attribute_is_found_beside_the_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "model.onnx"
    constant_elsewhere(path, text, "k.bin")
    model = load_model(path)
    assert external_files(model) == {"k.bin"}
    (y,) = open_session(model, "exact").run(None, {"x": np.ones(3, np.float32)})
    np.testing.assert_array_equal(y, [1, 2, 3])


@pytest.mark.parametrize("text", [CONSTANT, FUNCTION])
@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("../k.bin", "points outside the model's folder"),
        ("none.bin", "none.bin is missing"),
        ("k" * 5000, "names no file that there can be"),
        ("k.bin\0", "names no file that there can be"),
    ],
)
def test_data_of_an_attribute_is_refused_where_that_of_a_weight_is(
    tmp_path: Path, text: str, location: str, reason: str
) -> None:
    constant_elsewhere(tmp_path / "model.onnx", text, location)
    with pytest.raises(RequestError, match=reason):
        load_model(tmp_path / "model.onnx")
