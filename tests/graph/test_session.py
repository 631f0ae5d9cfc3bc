"""A lean session computes as the graph is written, and holds about one weight at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from compressor.graph.session import load_model, may_be_external, open_session, save_model
from tests import graphs

STATUS = Path("/proc/self/status")
WIDTH, LAYERS = 1024, 24
WEIGHT_BYTES = 4 * WIDTH * WIDTH


def deep(dtype: ir.DataType = ir.DataType.FLOAT) -> ir.Model:
    """Linears as torch has them, one behind the other: x = x @ transpose(weight)."""
    rng = np.random.default_rng(0)
    x = ir.Value(name="x", type=ir.TensorType(dtype), shape=ir.Shape([2, WIDTH]))
    nodes, weights, last = [], [], x
    for layer in range(LAYERS):
        values = rng.standard_normal((WIDTH, WIDTH), np.float32) / WIDTH**0.5
        weight = ir.Value(name=f"{layer}.weight", const_value=ir.tensor(values.astype(dtype.numpy())))
        turned = ir.node("Transpose", [weight], {"perm": [1, 0]}, name=f"{layer}.turn")
        product = ir.node("MatMul", [last, turned.outputs[0]], name=f"{layer}.product")
        nodes += [turned, product]
        weights.append(weight)
        last = product.outputs[0]
        last.name, last.type, last.shape = f"{layer}.y", ir.TensorType(dtype), ir.Shape([2, WIDTH])
    graph = ir.Graph([x], [last], nodes=nodes, initializers=weights, opset_imports={"": 21}, name="deep")
    return ir.Model(graph, ir_version=10)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("deep") / "deep.onnx"
    save_model(deep(), place)
    return place


@pytest.mark.skipif(not STATUS.is_file(), reason="anonymous memory is read from /proc")
def test_a_lean_session_turns_one_weight_at_a_time(path: Path) -> None:
    """Two weights are alive at the most, and threads and code take a few megabytes; all of them would be 24."""
    x = np.ones((2, WIDTH), np.float32)
    model = load_model(path)
    with peak_anonymous() as peak:
        session = open_session(model, "exact", lean=True)
        session.run(None, {"x": x})
    assert peak[0] < 6 * WEIGHT_BYTES


def test_a_lean_session_answers_as_any_other_and_leaves_the_graph_as_it_was(path: Path) -> None:
    x = np.random.default_rng(1).standard_normal((2, WIDTH)).astype(np.float32)
    model = load_model(path)
    before = [node.name for node in model.graph]
    lean = [open_session(one, "exact", lean=True).run(None, {"x": x})[0] for one in (path, model)]
    expected = open_session(path, "exact").run(None, {"x": x})[0]
    assert [node.name for node in model.graph] == before
    np.testing.assert_array_equal(lean[0], lean[1])
    np.testing.assert_allclose(lean[0], expected, rtol=0, atol=1e-5)  # prepacked products sum in another order


@contextmanager
def peak_anonymous() -> Iterator[list[int]]:
    """Bytes that no file backs, at their highest inside the block, above those before it."""
    begin, peak, done = anonymous(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.001):
            peak[0] = max(peak[0], anonymous() - begin)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()


def anonymous() -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("RssAnon"))
    return 1024 * int(line.split()[1])


def test_a_file_says_whether_its_data_may_lie_elsewhere(tmp_path: Path) -> None:
    weight = np.zeros((100, 100), np.float32)
    model = graphs.build("(float[N,100] x) => (float[N,100] y) { y = MatMul(x, w) }", w=weight)
    whole, parted, empty = (tmp_path / name for name in ("whole.onnx", "parted.onnx", "empty.onnx"))
    ir.save(model, whole)
    save_model(model, parted)
    empty.touch()
    assert [may_be_external(path) for path in (whole, parted, empty)] == [False, True, False]


def test_weights_written_by_several_threads_are_the_same_bytes(tmp_path: Path) -> None:
    alone, together = tmp_path / "alone.onnx", tmp_path / "together.onnx"
    save_model(deep(), alone)
    save_model(deep(), together, at_once=3)
    one, other = (path.with_name(f"{path.name}.data").read_bytes() for path in (alone, together))
    assert (one == other, len(one)) == (True, LAYERS * WEIGHT_BYTES)
