"""What no output depends on is not there."""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx_ir as ir

from passes.editing.nesting import let_go, roots, subgraphs
from passes.editing.refusal import Refusal

# Outputs a node may lose without computing anything else. BatchNormalization is missing on purpose: before opset 14
# the number of its outputs decides whether it trains.
OPTIONAL_OUTPUTS = {
    "Dropout": {1},
    "GRU": {0, 1},
    "LayerNormalization": {1, 2},
    "LSTM": {0, 1, 2},
    "MaxPool": {1},
    "RNN": {0, 1},
}


@dataclass
class DeadNodeElimination(ir.passes.InPlacePass):
    """Remove nodes, initializers and optional outputs that reach no output of their graph, subgraphs included.

        a = Relu(x); b = Exp(x); p, indices = MaxPool(a); y = Neg(p)
     -> a = Relu(x); p = MaxPool(a); y = Neg(p)

    Graph inputs stay, read or not, and so do their defaults: without its default an input would become required.
    """

    refusals: list[Refusal] = field(default_factory=list, init=False)  # always empty: nothing dead has a reason to stay

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        while any([_sweep(root) for root in roots(model)]):  # a sorted graph is done after the first, and confirmed
            modified = True
        return ir.passes.PassResult(model, modified)


def _sweep(graph: ir.Graph) -> bool:
    """Consumers before producers, so that a whole dead chain falls at once."""
    modified = False
    for node in reversed(graph):
        if _is_dead(node):
            let_go(node)
            graph.remove(node, safe=True)
            modified = True
        else:
            modified |= any([_trim_outputs(node), *(_sweep(subgraph) for subgraph in subgraphs(node))])
    return _drop_initializers(graph) or modified


def _is_dead(node: ir.Node) -> bool:
    """A node without outputs is a custom operator with a side effect: alive."""
    return bool(node.outputs) and not any(_is_read(output) for output in node.outputs)


def _trim_outputs(node: ir.Node) -> bool:
    """An unread optional output loses its name, which is ONNX for absent; the trailing ones go entirely."""
    optional = OPTIONAL_OUTPUTS.get(node.op_type, set()) if node.domain == "" else set()
    unread = [node.outputs[i] for i in optional if i < len(node.outputs) and not _is_read(node.outputs[i])]
    named = [output for output in unread if output.name]
    for output in named:
        output.name = ""
    while node.outputs and node.outputs[-1] in unread:
        node.resize_outputs(len(node.outputs) - 1)
    return bool(named)


def _is_read(value: ir.Value) -> bool:
    return bool(value.uses()) or value.is_graph_output()


def _drop_initializers(graph: ir.Graph) -> bool:
    values = graph.initializers.items()
    unread = [name for name, value in values if not (_is_read(value) or value.is_graph_input())]
    for name in unread:
        del graph.initializers[name]
    return bool(unread)
