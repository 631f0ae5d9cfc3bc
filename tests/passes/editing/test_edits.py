"""A pass can be stopped after any number of its edits, and what it made by then is right."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from compressor import catalog
from passes import run_passes
from passes.computing import evaluation
from passes.constant_folding import ConstantFolding
from passes.editing.edits import Edits, named
from tests import graphs, laws, moving_graphs, transformer_graphs, trap_graphs

GRAPHS = graphs.GRAPHS | moving_graphs.GRAPHS | transformer_graphs.GRAPHS | trap_graphs.GRAPHS
PASSES = [catalog.resolve(entry.where) for entry in catalog.PASSES.values()]
COUNTED = [one for one in PASSES if issubclass(one, Edits)]
NOT_COUNTED = {"ImportNormalization", "OpsetRaising", "ConstantOutputs", "DeadNodeElimination"}  # change no number


def test_every_pass_that_computes_is_counted() -> None:
    assert {one.__name__ for one in PASSES} - {one.__name__ for one in COUNTED} == NOT_COUNTED


@pytest.mark.parametrize("graph_pass", COUNTED)
def test_a_pass_stops_where_it_is_told_to(graph_pass: type[Edits]) -> None:
    for graph, builder in GRAPHS.items():
        whole = graph_pass()
        whole(builder())
        for limit in {0, len(whole.edited) // 2} if len(whole.edited) > 1 else ():
            part = graph_pass()
            part.limit = limit
            model = builder()
            assert part(model).modified is bool(limit), graph
            assert part.edited == whole.edited[:limit], graph
            if model.opset_imports[""] >= laws.OLDEST_OPSET_THAT_RUNS:
                laws.assert_same(laws.run(builder()), laws.run(model))


def test_a_wrong_fold_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three folds the second is wrong; halving finds it by its result."""
    text = """(float[2] x) => (float[2] y) {
        a = Neg(k)  b = Exp(k)  c = Abs(k)  d = Add(a, b)  e = Add(c, d)  y = Add(x, e)
    }"""
    model = graphs.build(text, k=np.array([1, 2], np.float32))
    monkeypatch.setitem(evaluation.EVALUATE, "Exp", np.negative)
    result, (outcome,) = run_passes(model, [ConstantFolding()], laws.run, rounds=1)
    assert outcome.guilty == "Exp b"
    assert len(result.graph) == 6


def test_a_node_without_a_name_is_known_by_its_result() -> None:
    model = graphs.build("(float[2] x) => (float[2] y) { y = Neg(x) }")
    assert named(model.graph[0]) == "Neg y"
    model.graph[0].name = "n"
    assert named(model.graph[0]) == "Neg n"
    assert named(ir.node("Neg", [None], num_outputs=0)) == "Neg "
