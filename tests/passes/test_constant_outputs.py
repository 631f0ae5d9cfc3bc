from __future__ import annotations

import numpy as np
import pytest

from passes.constant_folding import ConstantFolding
from passes.constant_outputs import LARGEST_COPY, ConstantOutputs
from tests import graphs, laws, moving_graphs


def test_bodies_and_branches_give_initializers() -> None:
    model = moving_graphs.constants_in_bodies()
    assert ConstantOutputs()(model).modified
    assert [node.op_type for node in model.graph.all_nodes()] == ["Loop", "Neg", "If", "Add"]
    for chosen in (True, False):
        feeds = {"x": np.array([1, -2], np.float32), "c": np.array(chosen)}
        laws.assert_same(laws.run(moving_graphs.constants_in_bodies(), feeds), laws.run(model, feeds))


def test_an_output_that_was_folded_is_an_initializer() -> None:
    model = graphs.constant_is_the_output()
    ConstantFolding()(model)
    assert ConstantOutputs()(model).modified
    assert [node.op_type for node in model.graph] == ["Add"]
    assert model.graph.outputs[1].is_initializer()


@pytest.mark.parametrize(("entries", "copied"), [(LARGEST_COPY // 4, True), (LARGEST_COPY // 4 + 1, False)])
def test_a_weight_that_others_read_is_not_stored_twice(entries: int, copied: bool) -> None:
    text = f"(float[{entries}] x) => (float[{entries}] y, float[{entries}] k) {{ k = Identity(w)  y = Add(x, w) }}"
    model, graph_pass = graphs.build(text, w=graphs.normal(entries)), ConstantOutputs()
    assert graph_pass(model).modified is copied
    assert bool(graph_pass.refusals) is not copied


def test_an_output_that_a_caller_may_set_stays_a_node() -> None:
    text = "(float[2] x, float[2] w) => (float[2] y, float[2] k) { k = Identity(w)  y = Add(x, w) }"
    assert not ConstantOutputs()(graphs.build(text, w=graphs.normal(2))).modified


def test_before_ir_4_nothing_can_be_added() -> None:
    model = graphs.build("(float[2] x) => (float[2] k) { k = Constant<value = float[2] {1, 2}>() }", ir_version=3)
    assert not ConstantOutputs()(model).modified
