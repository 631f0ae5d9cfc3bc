from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from passes.transpose_cancelling import TransposeCancelling
from tests import graphs, laws, moving_graphs


def cancelled(graph: str) -> tuple[ir.Model, TransposeCancelling]:
    model, graph_pass = moving_graphs.GRAPHS[graph](), TransposeCancelling()
    laws.left_by(graph_pass, model)
    return model, graph_pass


@pytest.mark.parametrize(
    ("graph", "left"),
    [
        ("between_channels", ["Add"]),
        ("between_entries", ["Mul", "Sub"]),
        ("between_dequantized", ["DequantizeLinear", "Add"]),
        ("between_scalar_and_relu", ["Div", "Relu"]),
        ("between_softmax", ["Softmax"]),
    ],
)
def test_both_transposes_go(graph: str, left: list[str]) -> None:
    model, _ = cancelled(graph)
    assert [node.op_type for node in model.graph] == left
    laws.assert_same(laws.run(moving_graphs.GRAPHS[graph]()), laws.run(model))


@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        ("between_data", "'z' is computed at run time"),
        ("between_scales_by_channel", "'d' is computed at run time"),
        ("between_weight_of_others", "others read 'large'"),
    ],
)
def test_refused_with_a_reason(graph: str, reason: str) -> None:
    model, graph_pass = cancelled(graph)
    assert sum(node.op_type == "Transpose" for node in model.graph) == 2
    assert reason in graph_pass.refusals[0].reason


@pytest.mark.parametrize("graph", ["between_two_readers", "between_softmax_opset_11", "between_another_order"])
def test_no_candidate(graph: str) -> None:
    model, graph_pass = cancelled(graph)
    assert sum(node.op_type == "Transpose" for node in model.graph) == 2
    assert graph_pass.refusals == []


def test_a_constant_of_both_operands_is_stored_once() -> None:
    model, _ = cancelled("between_entries")
    (weight,) = (one for one in model.graph.initializers.values() if one.uses())
    expected = moving_graphs.GRAPHS["between_entries"]().graph.initializers["by_entry"].const_value.numpy()
    np.testing.assert_array_equal(weight.const_value.numpy(), expected.transpose(0, 2, 3, 1))


def test_a_constant_of_more_axes_between_them_makes_them_no_pair() -> None:
    text = "(float[3,4] x) => (float[3,4,2] y) { t = Transpose(x)  a = Add(t, more)  y = Transpose(a) }"
    model = graphs.build(text, more=graphs.normal(2, 4, 3))
    assert laws.left_by(TransposeCancelling(), model) == ["Transpose", "Add", "Transpose"]
