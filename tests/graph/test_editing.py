"""Nodes that take over are known as the node was, and what only it read can go."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from compressor.graph.editing import add_constant, drop_unread, take_over
from tests import graphs

TEXT = "(float[N,3] x) => (float[N,4] y) { t = Transpose(w)  y = MatMul(x, t) }"


def test_what_takes_over_bears_the_name_and_stands_in_the_interface() -> None:
    graph = graphs.build(TEXT, w=graphs.normal(4, 3)).graph
    product = graph[1]
    nodes = [ir.node("MatMul", list(product.inputs))]
    nodes.append(ir.node("Identity", [nodes[0].outputs[0]]))
    take_over(graph, product, nodes)
    (y,) = graph.outputs
    assert (y.producer(), y.name, y.dtype, y.shape) == (nodes[1], "y", ir.DataType.FLOAT, ir.Shape(["N", 4]))
    assert [node.op_type for node in graph] == ["Transpose", "MatMul", "Identity"]


def test_a_weight_goes_with_the_nodes_that_turned_it_once_nobody_reads_it() -> None:
    graph = graphs.build(TEXT, w=graphs.normal(4, 3)).graph
    transpose, product = graph
    drop_unread(graph, transpose.outputs[0])
    assert len(graph) == 2, "the product reads it"
    product.replace_input_with(1, None)
    drop_unread(graph, transpose.outputs[0])
    assert list(graph) == [product]
    assert not graph.initializers


def test_a_constant_never_takes_the_name_of_another() -> None:
    graph = graphs.build(TEXT, w=graphs.normal(4, 3)).graph
    with pytest.raises(ValueError, match="already"):
        add_constant(graph, ir.tensor([1.0], name="w"))
