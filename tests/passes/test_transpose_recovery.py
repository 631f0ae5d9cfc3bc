from __future__ import annotations

import onnx_ir as ir
import pytest

from passes.transpose_recovery import TransposeRecovery
from tests import laws, moving_graphs


def recovered(graph: str) -> tuple[ir.Model, TransposeRecovery]:
    model, graph_pass = moving_graphs.GRAPHS[graph](), TransposeRecovery()
    laws.left_by(graph_pass, model)
    return model, graph_pass


@pytest.mark.parametrize(
    ("graph", "order"),
    [
        ("folded_image", (2, 0, 1)),
        ("folded_free_axis", (1, 2, 0)),
        ("folded_with_ones", (4, 0, 1, 2, 3)),
    ],
)
def test_one_transpose_is_left(graph: str, order: tuple[int, ...]) -> None:
    model, _ = recovered(graph)
    (transpose,) = model.graph
    assert transpose.attributes["perm"].as_ints() == order
    feeds = laws.feeds_for(model, 5)
    laws.assert_same(laws.run(moving_graphs.GRAPHS[graph](), feeds), laws.run(model, feeds))


@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        ("folded_and_split", "splits an axis"),
        ("folded_otherwise", "gives other axes"),
        ("folded_and_read", "others read what stands between"),
    ],
)
def test_refused_with_a_reason(graph: str, reason: str) -> None:
    model, graph_pass = recovered(graph)
    assert len(model.graph) == 3
    assert reason in graph_pass.refusals[0].reason
