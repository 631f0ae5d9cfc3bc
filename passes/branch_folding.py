"""Control flow that always goes one way is no control flow.

If (constant)                     ->  the branch that it takes
If (Not c) <then a, else b>       ->  If (c) <then b, else a>
Loop (1 trip, no condition)       ->  its body, once
Loop (0 trips)                    ->  what it was given
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from passes.editing.constants import constant, release
from passes.editing.naming import make_names_unique
from passes.editing.replacing import drop, hand_over
from passes.local import LocalPass, Refused, Scope, producer_of


class BranchFolding(LocalPass):
    """Move the nodes of the graph that runs to where the If or Loop stands.

    Names are made unique first: two branches may use one name, and initializers of a branch may bear a name of the main
    graph. Each result goes through an Identity, which keeps the names of outputs; the next pass drops those without a
    task. Refused: a Loop of no trip that stacks results, whose shape nobody knows.
    """

    operators: ClassVar[frozenset[str]] = frozenset({"If", "Loop"})

    def rewrite(self, node: ir.Node, scope: Scope) -> bool:
        return _fold_if(node, scope) if node.op_type == "If" else _fold_loop(node, scope)


def _fold_if(node: ir.Node, scope: Scope) -> bool:
    if _turn(node):
        return True
    condition = constant(node.inputs[0])
    if condition is None:
        return False
    name = "then_branch" if bool(condition.numpy().reshape(-1)[0]) else "else_branch"
    branch = node.attributes[name].as_graph()
    make_names_unique(scope.model.graph)
    results = list(branch.outputs)
    _move(branch, node)
    _hand_out(node, results, scope)
    return True


def _turn(node: ir.Node) -> bool:
    """Ask what is negated, and let the branches change places."""
    negation = producer_of(node.inputs[0], "Not")
    if negation is None:
        return False
    negated = node.inputs[0]
    first, second = (node.attributes[name].as_graph() for name in ("then_branch", "else_branch"))
    node.replace_input_with(0, negation.inputs[0])
    node.attributes["then_branch"] = ir.AttrGraph("then_branch", second)
    node.attributes["else_branch"] = ir.AttrGraph("else_branch", first)
    if negated is not None:
        release(negated)
    return True


def _fold_loop(node: ir.Node, scope: Scope) -> bool:
    """Loop(trips, condition, *carried); its body takes (trip, condition, *carried) and gives (condition, *carried,
    *stacked)."""
    trips, condition = constant(node.inputs[0]), constant(node.inputs[1])
    if trips is None or (node.inputs[1] is not None and condition is None):
        return False
    runs = int(trips.numpy().reshape(-1)[0]) if condition is None or bool(condition.numpy().all()) else 0
    given = list(node.inputs[2:])
    if runs > 1:
        return False
    if runs == 1:
        _unroll(node, given, scope)
    elif len(node.outputs) > len(given):
        raise Refused("it makes no trip, and stacks results of a shape that nobody knows")
    else:
        _hand_out(node, given, scope)
    return True


def _unroll(node: ir.Node, carried: Sequence[ir.Value | None], scope: Scope) -> None:
    """The body, once, with trip 0 and a true condition."""
    body = node.attributes["body"].as_graph()
    scope.require_room()
    make_names_unique(scope.model.graph)
    first = scope.constant(np.array(0, np.int64), f"{node.outputs[0].name}_trip")
    go = scope.constant(np.array(True), f"{node.outputs[0].name}_condition")
    given = dict(zip(body.inputs, (first, go, *carried), strict=True))
    results = list(body.outputs[1:])
    _move(body, node)
    for value, outer in given.items():
        if outer is not None:
            value.replace_all_uses_with(outer)
    outside = [given.get(value, value) for value in results]
    stacked = [_stack(value, node, scope) for value in outside[len(carried) :] if value is not None]
    _hand_out(node, [*outside[: len(carried)], *stacked], scope)


def _stack(value: ir.Value, node: ir.Node, scope: Scope) -> ir.Value:
    """One trip's result as the Loop stacks it: with a first axis of 1."""
    if scope.opset < 13:
        return scope.insert(node, "Unsqueeze", [value], {"axes": [0]}, like=value)
    return scope.insert(node, "Unsqueeze", [value, scope.constant(np.array([0]), "first_axis")], like=value)


def _move(graph: ir.Graph, node: ir.Node) -> None:
    """Nodes and initializers of an inner graph, to before the node that held it."""
    outer = node.graph
    assert outer is not None, "a node is folded once"
    graph.outputs.clear()
    graph.inputs.clear()
    for name, value in list(graph.initializers.items()):
        del graph.initializers[name]
        outer.register_initializer(value)
    nodes = list(graph)
    graph.remove(nodes)
    outer.insert_before(node, nodes)


def _hand_out(node: ir.Node, results: Sequence[ir.Value | None], scope: Scope) -> None:
    for output, result in zip(node.outputs, results, strict=True):
        if result is not None and (output.uses() or output.is_graph_output()):
            copied = scope.insert(node, "Identity", [result], like=output)
            hand_over(output, copied, scope.names)
    drop(node)
