from __future__ import annotations

import onnx_ir as ir

from passes.dead_node_elimination import DeadNodeElimination
from tests import graphs


def swept(model: ir.Model) -> ir.Graph:
    graph_pass = DeadNodeElimination()
    assert graph_pass(model).modified
    return model.graph


def test_a_dead_chain_falls_and_the_interface_stays() -> None:
    graph = swept(graphs.dead_chain())
    assert [node.op_type for node in graph] == ["Abs"]
    assert [value.name for value in graph.inputs] == ["x", "unread", "optional"]
    assert list(graph.initializers) == ["optional"], "without its default the input would become required"


def test_a_dead_if_lets_go_of_what_its_branches_capture() -> None:
    graph = swept(graphs.dead_branches())
    assert [node.op_type for node in graph] == ["If"]


def test_branches_lose_their_dead_nodes_and_initializers() -> None:
    then, otherwise = swept(graphs.dead_branches()).subgraphs()
    assert [node.op_type for node in then] == ["Exp"]
    assert not then.initializers
    assert [node.op_type for node in otherwise] == ["Abs"]


def test_unread_optional_outputs_go_and_read_ones_keep_their_place() -> None:
    pool, lstm = swept(graphs.optional_outputs())
    assert [output.name for output in pool.outputs] == ["y"]
    assert [output.name for output in lstm.outputs] == ["", "h"]


def test_batchnorm_keeps_its_outputs() -> None:
    """Before opset 14 their number decides whether it trains."""
    _, batchnorm = swept(graphs.conv_batchnorm_statistics_are_read())
    assert [output.name for output in batchnorm.outputs] == ["y", "m", "v", "sm", "sv"]


def test_nodes_out_of_order_are_swept_to_the_end() -> None:
    model = graphs.dead_chain()
    nodes = list(model.graph)
    model.graph.remove(nodes)
    model.graph.extend(reversed(nodes))
    assert [node.op_type for node in swept(model)] == ["Abs"]


def test_a_node_without_outputs_acts_by_itself() -> None:
    model = graphs.dropout_is_all()
    model.graph.append(ir.Node("vendor", "Print", model.graph.inputs, num_outputs=0))
    assert not DeadNodeElimination()(model).modified
