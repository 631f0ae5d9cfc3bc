"""A pass that was put off is missed by no graph that it would have edited, or had a word to say about."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from compressor import catalog
from passes import run_passes
from passes.editing.nesting import every_node
from passes.local import LocalPass
from passes.running.waiting import Waiting
from tests import graphs
from tests.passes.test_laws import GRAPHS

PUT_OFF = {name: entry for name, entry in catalog.PASSES.items() if entry.needs}


@pytest.mark.parametrize("name", PUT_OFF)
def test_without_what_a_pass_needs_it_finds_nothing(name: str) -> None:
    graph_pass, needs = catalog.resolve(PUT_OFF[name].where), set(PUT_OFF[name].needs.split())
    for build in GRAPHS.values():
        model = build()
        if needs.isdisjoint(node.op_type for node in every_node(model.graph) if node.domain == ""):
            one = graph_pass()
            assert not one(model).modified
            assert one.refusals == []


@pytest.mark.parametrize("name", PUT_OFF)
def test_a_pass_that_names_its_operators_needs_one_of_them(name: str) -> None:
    graph_pass = catalog.resolve(PUT_OFF[name].where)
    if issubclass(graph_pass, LocalPass):
        assert graph_pass.operators == set(PUT_OFF[name].needs.split())


class Dropping(LocalPass):
    operators = frozenset({"Relu"})

    def rewrite(self, node: ir.Node, scope: object) -> bool:
        node.op_type = "Abs"
        return True


class Making(LocalPass):
    operators = frozenset({"Neg"})

    def rewrite(self, node: ir.Node, scope: object) -> bool:
        node.op_type = "Relu"
        return True


@pytest.mark.parametrize("written", ["Relu", "Neg", "Exp"])
def test_it_is_loaded_once_the_graph_has_the_operator_or_gets_it(written: str) -> None:
    loads: list[str] = []

    def load() -> ir.passes.PassBase:
        loads.append(written)
        return Dropping()

    model = graphs.build(f"(float[2] x) => (float[2] y) {{ y = {written}(x) }}")
    after, outcomes = run_passes(model, [Waiting("Dropping", frozenset({"Relu"}), load), Making()])
    assert [node.op_type for node in after.graph] == ["Exp" if written == "Exp" else "Abs"]
    assert [one.modified for one in outcomes if one.name == "Dropping"][-1] == (written != "Exp")
    assert len(loads) == (written != "Exp")


def test_one_that_does_harm_is_rolled_back_under_its_own_name() -> None:
    def answers(model: ir.Model) -> dict[str, object]:
        return {"y": graphs.normal(2) * (model.graph[0].op_type == "Relu")}

    model = graphs.build("(float[2] x) => (float[2] y) { y = Relu(x) }")
    _, (outcome,) = run_passes(model, [Waiting("Dropping", frozenset({"Relu"}), Dropping)], answers, rounds=1)
    assert (outcome.name, outcome.guilty) == ("Dropping", "Relu y")
    assert outcome.rolled_back is not None
