"""The half types on a CPU: computed in float32, rounded after every node, moved as they are."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from compressor.graph import narrow
from compressor.graph.session import open_session
from passes.half.half_precision import HalfPrecision
from passes.import_normalization import ImportNormalization
from tests import graphs, laws

HALVES = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
ROWS, WIDTH = 5, 64


def graph(dtype: ir.DataType) -> ir.Model:
    """y = table[rows] @ transpose(table) + 1, as a file has it: no types between its nodes."""
    table = np.random.default_rng(0).standard_normal((ROWS, WIDTH)).astype(dtype.numpy())
    rows = ir.Value(name="rows", type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape([3]))
    weight = ir.Value(name="table", const_value=ir.tensor(table, dtype=dtype), type=ir.TensorType(dtype))
    one = ir.Value(
        name="one", const_value=ir.tensor(np.array(1, dtype.numpy()), dtype=dtype), type=ir.TensorType(dtype)
    )
    gather = ir.node("Gather", [weight, rows], name="gather")
    turned = ir.node("Transpose", [weight], {"perm": [1, 0]}, name="turned")
    product = ir.node("MatMul", [gather.outputs[0], turned.outputs[0]], name="product")
    total = ir.node("Add", [product.outputs[0], one], name="sum")
    for node in (product, total):
        node.outputs[0].type = ir.TensorType(dtype)
    y = total.outputs[0]
    y.name, y.shape = "y", ir.Shape([3, ROWS])
    nodes = [gather, turned, product, total]
    made = ir.Graph([rows], [y], nodes=nodes, initializers=[weight, one], opset_imports={"": 21}, name="half")
    return ir.Model(made, ir_version=10)


@pytest.mark.parametrize("dtype", HALVES)
def test_every_node_rounds_what_float32_gives(dtype: ir.DataType) -> None:
    rows = np.array([4, 0, 2])
    table = graph(dtype).graph.initializers["table"].const_value.numpy().astype(np.float32)
    rounded = (table[rows] @ table.T).astype(dtype.numpy()).astype(np.float32)
    expected = (rounded + 1).astype(dtype.numpy()).astype(np.float32)
    found = open_session(narrow.runnable(graph(dtype), dtype), "exact").run(None, {"rows": rows})[0]
    # A sum in another order may round the other way: one step of 8 bits of mantissa, on values of up to 2**7.
    np.testing.assert_allclose(found.astype(np.float32), expected, rtol=2**-7, atol=0)


@pytest.mark.parametrize("dtype", HALVES)
def test_a_graph_that_was_halved_rounds_every_value(dtype: ir.DataType) -> None:
    """float32 outside, and nodes that have no names."""
    model = graphs.build("(float[3,4] x) => (float[3,2] y) { h = MatMul(x, w)  y = Relu(h) }", w=graphs.normal(4, 2))
    ImportNormalization()(model)
    HalfPrecision(dtype, lambda node: True)(model)
    for node in model.graph:
        node.name = ""
    feeds = laws.feeds_for(model)
    found = laws.run(narrow.runnable(model, dtype), feeds)["y"]
    x, w = (array.astype(dtype.numpy()).astype(np.float32) for array in (feeds["x"], graphs.normal(4, 2)))
    np.testing.assert_array_equal(found, np.maximum((x @ w).astype(dtype.numpy()).astype(np.float32), 0))


@pytest.mark.parametrize("dtype", HALVES)
def test_a_clone_is_made_wide_alone(dtype: ir.DataType) -> None:
    """Clones share the objects that say their types."""
    model = graph(dtype)
    before = laws.to_bytes(model)
    narrow.runnable(model.clone(), dtype)
    assert laws.to_bytes(model) == before


@pytest.mark.parametrize("dtype", HALVES)
def test_a_type_that_is_not_stated_is_found(dtype: ir.DataType) -> None:
    """GatherND says no type, the Transpose behind it does: the two have to agree."""
    table = ir.tensor(np.arange(6).reshape(3, 2).astype(dtype.numpy()), dtype=dtype)
    weight = ir.Value(name="table", const_value=table, type=ir.TensorType(dtype), shape=ir.Shape([3, 2]))
    rows = ir.Value(name="rows", type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape([2, 1]))
    picked = ir.node("GatherND", [weight, rows], name="picked")
    turned = ir.node("Transpose", [picked.outputs[0]], {"perm": [1, 0]}, name="turned")
    y = turned.outputs[0]
    y.name, y.type, y.shape = "y", ir.TensorType(dtype), ir.Shape([2, 2])
    made = ir.Graph([rows], [y], nodes=[picked, turned], initializers=[weight], opset_imports={"": 21}, name="half")
    session = open_session(narrow.runnable(ir.Model(made, ir_version=10), dtype), "exact")
    found = session.run(None, {"rows": np.array([[2], [0]])})[0]
    assert found.astype(np.float32).tolist() == [[4, 0], [5, 1]]


@pytest.mark.parametrize("dtype", HALVES)
def test_what_goes_through_a_sequence_keeps_its_type(dtype: ir.DataType) -> None:
    """How torch.onnx writes chunk(2): a sequence, and its entries by number."""
    x = ir.Value(name="x", type=ir.TensorType(dtype), shape=ir.Shape([2, 4]))
    number = ir.Value(name="one", const_value=ir.tensor(np.array(1)), type=ir.TensorType(ir.DataType.INT64))
    size = ir.Value(name="size", const_value=ir.tensor(np.array(2)), type=ir.TensorType(ir.DataType.INT64))
    parts = ir.node("SplitToSequence", [x, size], {"axis": 1}, name="parts")
    part = ir.node("SequenceAt", [parts.outputs[0], number], name="part")
    total = ir.node("Add", [part.outputs[0], part.outputs[0]], name="total")
    y = total.outputs[0]
    y.name, y.type, y.shape = "y", ir.TensorType(dtype), ir.Shape([2, 2])
    nodes = [parts, part, total]
    made = ir.Graph([x], [y], nodes=nodes, initializers=[number, size], opset_imports={"": 21}, name="half")
    session = open_session(narrow.runnable(ir.Model(made, ir_version=10), dtype), "exact")
    fed = np.float32 if dtype == ir.DataType.BFLOAT16 else np.float16
    found = session.run(None, {"x": np.arange(8).reshape(2, 4).astype(fed)})[0]
    assert found.astype(np.float32).tolist() == [[4, 6], [12, 14]]


@pytest.mark.parametrize("dtype", HALVES)
def test_a_table_that_is_only_looked_up_is_not_widened(dtype: ir.DataType) -> None:
    made = narrow.runnable(graph(dtype), dtype)
    gather = next(node for node in made.graph if node.op_type == "Gather")
    assert gather.inputs[0] is made.graph.initializers["table"]


@pytest.mark.parametrize("dtype", HALVES)
def test_the_interface_is_one_that_numpy_feeds(dtype: ir.DataType) -> None:
    made = narrow.runnable(graph(dtype), dtype)
    assert made.graph.outputs[0].dtype == (ir.DataType.FLOAT if dtype == ir.DataType.BFLOAT16 else dtype)
