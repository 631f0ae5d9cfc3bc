from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from passes.expand_elimination import ExpandElimination
from tests import graphs, laws, moving_graphs


def narrowed(model: ir.Model) -> ExpandElimination:
    graph_pass = ExpandElimination()
    laws.left_by(graph_pass, model)
    return graph_pass


@pytest.mark.parametrize("graph", ["widened_for_sum", "widened_for_choice", "widened_rank"])
def test_the_operator_widens_by_itself(graph: str) -> None:
    model = moving_graphs.GRAPHS[graph]()
    narrowed(model)
    assert "Expand" not in [node.op_type for node in model.graph]
    laws.assert_same(laws.run(moving_graphs.GRAPHS[graph]()), laws.run(model))


@pytest.mark.parametrize("graph", ["widened_alone", "widened_beside_free"])
def test_an_expand_that_gives_the_size_stays(graph: str) -> None:
    model = moving_graphs.GRAPHS[graph]()
    graph_pass = narrowed(model)
    assert [node.op_type for node in model.graph] == ["Expand", "Add"]
    assert "may have another shape" in graph_pass.refusals[0].reason


def test_two_expands_of_which_one_gives_the_size() -> None:
    text = """(float[3,1] x, float[1,4] z) => (float[3,4] y) {
        a = Expand(x, to)  b = Expand(z, to)  y = Mul(a, b)
    }"""
    model = graphs.build(text, to=np.array([3, 4]))
    narrowed(model)
    assert [node.op_type for node in model.graph] == ["Mul"]


def test_before_opset_8_operators_widen_otherwise() -> None:
    text = "(float[3,1] x, float[3,4] z) => (float[3,4] y) { e = Identity(x)  y = Add<broadcast = 1>(z, e) }"
    assert not ExpandElimination()(graphs.build(text, opset=6)).modified
