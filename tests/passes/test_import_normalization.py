from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from passes.import_normalization import LAST_IR, LAST_OPSET, ImportNormalization, lower_versions
from passes.noop_elimination import NoopElimination
from tests import graphs, laws


def normal(model: ir.Model) -> ir.Model:
    assert ImportNormalization()(model).modified
    return model


def test_constants_become_initializers_of_the_main_graph() -> None:
    text = """(float[2] x, bool c) => (float[2] y) {
        k = Constant<value = float[2] {1, 2}>()  a = Add(x, k)
        y = If (c) <then_branch = t () => (float[2] p) <float[2] w = {3, 4}> { p = Add(a, w) },
                    else_branch = e () => (float[2] q) { q = Neg(a) }>
    }"""
    model = normal(graphs.build(text))
    assert {"k", "w"} <= set(model.graph.initializers)
    assert "Constant" not in [node.op_type for node in model.graph.all_nodes()]


def test_functions_are_inlined() -> None:
    proto = graphs.onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17, "own": 1]> g (float[2] x) => (float[2] y) { y = own.twice(x) }
        <domain: "own", opset_import: ["": 17]> twice (a) => (b) { b = Add(a, a) }"""
    )
    model = normal(ir.from_proto(proto))
    assert [node.op_type for node in model.graph] == ["Add"]
    assert not model.functions


def test_a_function_of_another_opset_is_inlined_where_its_operators_are_the_same() -> None:
    """Add and Identity of 15 are those of 17; ReduceMax of 13, whose axes are an attribute, is not that of 18."""
    text = """<ir_version: 8, opset_import: ["": 18, "own": 1]> g (float[2] x) => (float[1] y) {
            h = own.same(x)  y = own.other(h)
        }
        <domain: "own", opset_import: ["": 15]> same (a) => (b) { b = Add(a, a) }
        <domain: "own", opset_import: ["": 13]> other (a) => (b) { b = ReduceMax<axes = [0]>(a) }"""
    model = normal(ir.from_proto(graphs.onnx.parser.parse_model(text)))
    assert [node.op_type for node in model.graph] == ["Add", "other"]
    assert [function.name for function in model.functions.values()] == ["other"]


def test_weights_before_ir_4_are_nobodys_choice_and_later_defaults_stay() -> None:
    text = "(float[2] x, float[2] w) => (float[2] y) { y = Add(x, w) }"
    old = normal(graphs.build(text, opset=8, ir_version=3, w=graphs.normal(2)))
    new = graphs.build(text, w=graphs.normal(2))
    ImportNormalization()(new)
    assert [value.name for value in old.graph.inputs] == ["x"]
    assert [value.name for value in new.graph.inputs] == ["x", "w"]


def test_nodes_are_put_in_order() -> None:
    model = graphs.dead_chain()
    nodes = list(model.graph)
    model.graph.remove(nodes)
    model.graph.extend(reversed(nodes))
    expected = laws.run(graphs.dead_chain())
    laws.assert_same(expected, laws.run(normal(model)))


def test_sizes_that_follow_are_written() -> None:
    text = "(float[N,4] x) => (float[M,2] y) { h = MatMul(x, w)  y = Relu(h) }"
    model = normal(graphs.build(text, w=np.ones((4, 2), np.float32)))
    shape = model.graph[0].outputs[0].shape
    assert shape is not None
    assert [str(size) for size in shape] == ["N", "2"]


def test_a_second_time_there_is_nothing_to_do() -> None:
    model = normal(graphs.conv_batchnorm())
    assert not ImportNormalization()(model).modified


def test_the_sizes_that_a_body_declares_are_not_believed() -> None:
    """The Loop is given [2, 1], and its body says [2, 6]: the sum with zeros is wider than what it gets."""
    text = """(float[2,W] x) => (float[2,V] y) {
        y = Loop (trips, go, x) <body = b (int64 i, bool c, float[2,6] h) => (bool d, float[R,S] s) {
            d = Identity(c)  s = Add(h, zeros)
        }>
    }"""
    model = graphs.build(text, trips=np.array(2), go=np.array(True), zeros=np.zeros((1, 6), np.float32))
    feeds = {"x": graphs.normal(2, 1)}
    expected = laws.run(model, feeds)
    left = laws.run(NoopElimination()(normal(model)).model, feeds)
    laws.assert_same(expected, left)
    assert left["y"].shape == (2, 6)


@pytest.mark.parametrize(("opset", "ir_version", "loads"), [(27, 14, True), (28, 14, False)])
def test_versions_are_lowered_where_nothing_needs_them(opset: int, ir_version: int, loads: bool) -> None:
    """Opset 28 has a Cast of its own."""
    model = graphs.build("(float[2] x) => (float[2] y) { y = Cast<to = 1>(x) }", opset, ir_version)
    assert lower_versions(model)
    assert (model.opset_imports[""], model.ir_version) == (LAST_OPSET if loads else opset, LAST_IR)
    assert lower_versions(model) is False
