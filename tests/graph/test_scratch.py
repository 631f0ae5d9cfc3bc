"""A session over weights that are computed when they are read: mapped, right in every type, and gone with it."""

from __future__ import annotations

import gc
import tempfile
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from compressor.graph import scratch
from compressor.graph.session import load_model, open_session, save_model
from passes.constant_folding import ConstantFolding
from tests import graphs
from tests.graph.test_session import STATUS, WEIGHT_BYTES, WIDTH, deep, peak_anonymous

TEXT = "(T[N,256] x) => (T[N,256] y) { t = Transpose<perm = [1, 0]>(w)  h = MatMul(x, t)  y = Add(h, v) }"


def folded(model: ir.Model) -> ir.Model:
    ConstantFolding()(model)
    return model


@pytest.mark.skipif(not STATUS.is_file(), reason="anonymous memory is read from /proc")
def test_memory_grows_with_the_largest_weight(tmp_path: Path) -> None:
    """One weight is computed at a time, in two copies, and threads and code take some megabytes; all would be 24."""
    save_model(deep(), tmp_path / "deep.onnx")
    model = folded(load_model(tmp_path / "deep.onnx"))
    assert "Transpose" not in [node.op_type for node in model.graph]
    with peak_anonymous() as peak:
        open_session(model, "exact", lean=True).run(None, {"x": np.ones((2, WIDTH), np.float32)})
    assert peak[0] < 6 * WEIGHT_BYTES


@pytest.mark.parametrize("in_a_file", [True, False])
@pytest.mark.parametrize(("name", "dtype"), [("float", np.float32), ("float16", np.float16), ("double", np.float64)])
def test_answers_are_those_of_the_weights_themselves(
    name: str, dtype: type[np.floating], in_a_file: bool, tmp_path: Path
) -> None:
    """With other weights in the model's folder, and with none: then no folder is the model's."""
    weights = {"w": graphs.normal(256, 256, dtype=dtype), "v": graphs.normal(256, dtype=dtype)}
    model = graphs.build(TEXT.replace("T[", f"{name}["), **weights)
    x = graphs.normal(3, 256, dtype=dtype)
    (expected,) = open_session(model, "exact", lean=True).run(None, {"x": x})
    if in_a_file:
        save_model(model, tmp_path / "model.onnx")
        model = load_model(tmp_path / "model.onnx")
    model = folded(model)
    lazy = [value.const_value for value in model.graph.initializers.values()]
    assert any(isinstance(one, ir.LazyTensor) and one.nbytes >= scratch.SMALLEST for one in lazy)
    session = open_session(model, "exact", lean=True)
    gc.collect()  # the session alone keeps what it reads
    np.testing.assert_array_equal(session.run(None, {"x": x})[0], expected)
    assert [value.const_value for value in model.graph.initializers.values()] == lazy


def test_nothing_is_left_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    model = folded(graphs.build(TEXT.replace("T[", "float["), w=graphs.normal(256, 256), v=graphs.normal(256)))
    session = open_session(model, "exact", lean=True)
    assert list(tmp_path.iterdir()) == []
    assert session.run(None, {"x": graphs.normal(1, 256)})[0].shape == (1, 256)
