"""Dictionaries in the interface of a graph: what scikit-learn's classifiers give, and its vectorizers take."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from compressor.artifact import MODEL
from compressor.graph.session import load_model, open_session, save_model
from compressor.providers import prediction
from compressor.shelf import Shelf
from compressor.sources import open_input
from compressor.stages import optimizing

FLOATS = helper.make_tensor_type_proto(TensorProto.FLOAT, ["rows", 3])
PROBABILITIES = helper.make_sequence_type_proto(helper.make_map_type_proto(TensorProto.INT64, FLOATS))
OPSETS = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
ROWS = np.arange(6, dtype=np.float32).reshape(2, 3)


def save(path: Path, graph: onnx.GraphProto) -> onnx.ModelProto:
    proto = helper.make_model(graph, opset_imports=OPSETS, ir_version=8)
    onnx.save(proto, path)
    return proto


def classifier(path: Path) -> onnx.ModelProto:
    """Identity, and a ZipMap whose output is named among the values between too."""
    nodes = [
        helper.make_node("Identity", ["x"], ["h"]),
        helper.make_node("ZipMap", ["h"], ["y"], domain="ai.onnx.ml", classlabels_int64s=[0, 1, 2]),
    ]
    inputs, outputs = [helper.make_value_info("x", FLOATS)], [helper.make_value_info("y", PROBABILITIES)]
    return save(
        path, helper.make_graph(nodes, "g", inputs, outputs, value_info=[helper.make_value_info("y", PROBABILITIES)])
    )


def test_a_graph_that_gives_dictionaries_is_optimized_and_says_so(tmp_path: Path) -> None:
    proto = classifier(tmp_path / "a.onnx")
    made = optimizing.optimize(
        open_input(tmp_path / "a.onnx"), optimizing.Target("generic"), Shelf(tmp_path / "made", exact=True)
    )
    written = onnx.load(made.directory / MODEL)
    assert [node.op_type for node in written.graph.node] == ["ZipMap"]
    assert written.graph.output == proto.graph.output
    assert made.facts["fallbacks"] == []
    (expected,), (found,) = (
        open_session(path, "exact").run(None, {"x": ROWS}) for path in (tmp_path / "a.onnx", made.directory / MODEL)
    )
    assert found == expected


def test_a_graph_that_takes_a_dictionary_is_read_and_written(tmp_path: Path) -> None:
    words = helper.make_map_type_proto(TensorProto.STRING, helper.make_tensor_type_proto(TensorProto.FLOAT, ()))
    node = helper.make_node("DictVectorizer", ["x"], ["y"], domain="ai.onnx.ml", string_vocabulary=["a", "b"])
    proto = save(
        tmp_path / "a.onnx",
        helper.make_graph([node], "g", [helper.make_value_info("x", words)], [helper.make_value_info("y", FLOATS)]),
    )
    model = load_model(tmp_path / "a.onnx")
    save_model(model, tmp_path / "b.onnx")
    assert onnx.load(tmp_path / "b.onnx").graph.input == proto.graph.input
    for given in (model, tmp_path / "b.onnx"):
        (y,) = open_session(given, "exact").run(None, {"x": {"b": 2.0}})
        np.testing.assert_array_equal(y, [[0, 2]])


def test_where_such_a_graph_runs_is_told(tmp_path: Path) -> None:
    classifier(tmp_path / "a.onnx")
    predicted = prediction.predict(load_model(tmp_path / "a.onnx"), "cpu")
    assert predicted.verdict(strict=True) == prediction.RUNS
