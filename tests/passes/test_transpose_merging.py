from __future__ import annotations

import onnx_ir as ir
import pytest

from passes.transpose_merging import TransposeMerging
from tests import graphs, laws, moving_graphs, trap_graphs


def merged(model: ir.Model) -> list[str]:
    return laws.left_by(TransposeMerging(), model)


@pytest.mark.parametrize(("graph", "axis"), [("gathered_first", 2), ("gathered_middle", 1)])
def test_one_entry_is_taken_before_the_transpose(graph: str, axis: int) -> None:
    model = moving_graphs.GRAPHS[graph]()
    assert merged(model) == ["Gather"]
    assert model.graph[0].attributes["axis"].as_int() == axis
    laws.assert_same(laws.run(moving_graphs.GRAPHS[graph]()), laws.run(model))


@pytest.mark.parametrize("graph", ["gathered_out_of_order", "gathered_row"])
def test_what_changes_the_order_or_keeps_the_axis_stays(graph: str) -> None:
    assert merged(moving_graphs.GRAPHS[graph]()) == ["Transpose", "Gather"]


def test_two_that_are_no_inverse_are_one() -> None:
    assert merged(trap_graphs.GRAPHS["transposes_merge"]()) == ["Exp", "Transpose"]


def test_a_second_reader_keeps_the_order_it_reads() -> None:
    text = """(float[2,3,4] x) => (float[3,4,2] y, float[4,2,3] r) {
        t = Transpose<perm = [2,0,1]>(x)  r = Relu(t)  y = Transpose<perm = [2,0,1]>(r)
    }"""
    assert merged(graphs.build(text)) == ["Transpose", "Relu", "Transpose"]


def test_operands_transposed_differently_are_refused() -> None:
    text = """(float[3,3] x, float[3,3] z) => (float[3,3] y) {
        a = Transpose<perm = [1,0]>(x)  b = Transpose<perm = [0,1]>(z)  y = Add(a, b)
    }"""
    graph_pass = TransposeMerging()
    graph_pass(graphs.build(text))
    assert any("transposed differently" in refusal.reason for refusal in graph_pass.refusals)


def test_one_behind_a_pair_takes_the_name_of_an_output() -> None:
    text = """(float[2,1,4] x, float[1,3,4] z) => (float[4,3,2] y) {
        a = Transpose<perm = [2,1,0]>(x)  b = Transpose<perm = [2,1,0]>(z)  y = Sub(a, b)
    }"""
    model = graphs.build(text)
    assert merged(model) == ["Sub", "Transpose"]
    laws.assert_same(laws.run(graphs.build(text)), laws.run(model))
