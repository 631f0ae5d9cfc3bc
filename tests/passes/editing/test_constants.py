from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from passes.editing.constants import add_initializer, constant, is_finite, release
from tests import graphs

TEXT = """(float[2] x, float[2] d) => (float[2] y, float[2] o) {
    k = Constant<value = float[2] {1, 2}>()  a = Add(x, k)  b = Add(a, w)  y = Add(b, d)  o = Identity(w)
}"""


def model() -> ir.Model:
    return graphs.build(TEXT, w=graphs.normal(2), d=graphs.normal(2))


def test_what_a_constant_is() -> None:
    graph = model().graph
    add_k, add_w, add_d = (node for node in graph if node.op_type == "Add")
    assert constant(add_k.inputs[1]) is not None, "the output of a Constant"
    assert constant(add_w.inputs[1]) is not None, "an initializer"
    assert constant(add_d.inputs[1]) is None, "a default, which a caller may override"
    assert constant(add_k.inputs[0]) is None
    assert constant(None) is None


@pytest.mark.parametrize(
    ("numbers", "finite"),
    [
        (np.float32([1, 2]), True),
        (np.float32([1, np.inf]), False),
        (np.float16([np.nan]), False),
        (np.array([1, 2]), True),
        (np.array([True]), True),
    ],
)
def test_finite(numbers: np.ndarray, finite: bool) -> None:
    assert is_finite(ir.tensor(numbers)) is finite


def test_a_name_that_is_taken_is_never_overwritten() -> None:
    graph = model().graph
    with pytest.raises(ValueError, match="already"):
        add_initializer(graph, "w", ir.tensor(graphs.normal(2)))


def test_only_what_nobody_reads_is_released() -> None:
    graph = model().graph
    weight, default = graph.initializers["w"], graph.initializers["d"]
    assert not release(weight)
    for reader, place in list(weight.uses()):
        reader.replace_input_with(place, None)
    assert release(weight)
    assert "w" not in graph.initializers
    for reader, place in list(default.uses()):
        reader.replace_input_with(place, None)
    assert not release(default), "the interface names it"


def test_of_a_node_of_several_results_all_go_or_none() -> None:
    """Dropping the one reader of a Split's second piece must leave the first."""
    text = "(float[2,4] x) => (float[1,4] y) { h = Neg(x)  a, b = Split<axis = 0>(h, k)  y = Abs(a) }"
    graph = graphs.build(text, opset=13, k=np.array([1, 1])).graph
    split = graph[1]
    assert not release(split.outputs[1])
    assert split.graph is graph
    graph.outputs.clear()
    graph.remove(graph[2], safe=True)
    assert release(split.outputs[1])
    assert [node.op_type for node in graph] == ["Neg"]
