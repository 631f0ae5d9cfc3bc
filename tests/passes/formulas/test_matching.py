from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from passes.formulas.matching import (
    by_scalar,
    integers,
    made_by,
    normalized_axis,
    origin,
    permutation,
    same,
    scalar,
    sizes,
    uncast,
)
from tests import graphs

COPIES = """(float[N,3] x) => (float[N,3] y) {
    m = Mul(x, two)  i = Identity(m)  c = Cast<to = 1>(i)  s = Slice(c, start, end)  y = Neg(s)
}"""


@pytest.fixture
def graph() -> ir.Graph:
    model = graphs.build(COPIES, two=np.float32(2), start=np.array([0]), end=np.array([2**62]))
    for node in model.graph:
        node.outputs[0].dtype = ir.DataType.FLOAT
    return model.graph


def test_copies_are_looked_through(graph: ir.Graph) -> None:
    product, _, _, cut, last = graph
    assert origin(last.inputs[0]) is product.outputs[0]
    assert made_by(last.inputs[0], "Mul") is product
    assert made_by(last.inputs[0], "Add") is None
    assert by_scalar(product) == (graph.inputs[0], 2.0)
    cut.inputs[2].const_value = ir.tensor(np.array([1]))
    assert origin(last.inputs[0]) is cut.outputs[0], "a Slice that takes one row is no copy"


def test_a_cast_to_another_type_is_a_copy_for_those_who_ask() -> None:
    model = graphs.build("(float16[2] x) => (float[2] y) { c = Cast<to = 1>(x)  y = Neg(c) }")
    value = model.graph[1].inputs[0]
    assert origin(value) is value
    assert uncast(value) is model.graph.inputs[0]


def test_numbers() -> None:
    model = graphs.build("(float[2] x) => (float[2] y) { y = Add(x, k) }", k=np.array([[3]], np.float32))
    assert scalar(model.graph.initializers["k"]) == 3.0
    assert scalar(model.graph.inputs[0]) is None
    assert integers(model.graph.initializers["k"]) is None
    assert integers(ir.val("i", const_value=ir.tensor([1, -1]))) is None, "no initializer of a graph"


def test_axes() -> None:
    value = ir.val("v", ir.DataType.FLOAT, ["N", 4, None])
    assert sizes(value, 2) is None
    axes = sizes(value, 3)
    assert axes is not None
    assert same(axes[:2], axes[:2])
    assert not same(axes, axes), "an axis without a name is equal to none"
    assert [normalized_axis(axis, 3) for axis in (-1, 0)] == [2, 0]
    transposed = graphs.build("(float[2,3] x) => (float[3,2] y) { y = Transpose<perm = [1,0]>(x) }").graph[0]
    assert permutation(transposed) == (1, 0)
