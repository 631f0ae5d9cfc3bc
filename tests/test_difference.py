"""`compress diff`: what two graphs differ in, and nothing where they are the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from tests import graphs

TEXT = "(float[N,2] x) => (float[N,3] y) { m = MatMul(x, w)  y = RELU(m) }"


def saved(folder: Path, name: str, weight: np.ndarray, activation: str = "Relu", opset: int = 17) -> Path:
    path = folder / f"{name}.onnx"
    ir.save(graphs.build(TEXT.replace("RELU", activation), opset=opset, w=weight), path)
    return path


def test_equal_graphs_differ_in_nothing(tmp_path: Path, compress: Callable[..., object]) -> None:
    path = saved(tmp_path, "a", graphs.normal(2, 3))
    ended = compress("diff", path, path, "--json")
    assert (ended.code, ended.json()) == (0, {})  # type: ignore[attr-defined]


def test_operators_versions_and_weights(tmp_path: Path, compress: Callable[..., object]) -> None:
    weight = graphs.normal(2, 3)
    before = saved(tmp_path, "a", weight)
    after = saved(tmp_path, "b", weight * np.float32(1.001), "Exp", opset=18)
    facts = compress("diff", before, after, "--json").json()  # type: ignore[attr-defined]
    assert facts["opsets"] == {"ai.onnx": "17 -> 18"}
    assert facts["operators"] == {"Relu": "1 -> none", "Exp": "none -> 1"}
    assert facts["weights"] == {"of the same name": {"other values, up to 1e-02 of the largest": 1}}


def test_a_weight_of_too_few_bytes_is_the_requests_fault(tmp_path: Path, compress: Callable[..., object]) -> None:
    path = saved(tmp_path, "a", graphs.normal(2, 3))
    proto = onnx.load(path)
    proto.graph.initializer[0].raw_data = proto.graph.initializer[0].raw_data[:-1]
    path.write_bytes(proto.SerializeToString())
    ended = compress("diff", path, path)
    assert ended.code == 2  # type: ignore[attr-defined]
    assert "the weight 'w' cannot be read" in ended.err  # type: ignore[attr-defined]


def test_a_missing_file_is_the_requests_fault(tmp_path: Path, compress: Callable[..., object]) -> None:
    path = saved(tmp_path, "a", graphs.normal(2, 3))
    ended = compress("diff", path, tmp_path / "none.onnx")
    assert ended.code == 2  # type: ignore[attr-defined]
    assert len(ended.err.splitlines()) == 1  # type: ignore[attr-defined]
