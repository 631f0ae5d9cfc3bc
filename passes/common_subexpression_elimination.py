"""What is computed twice from the same values is computed once.

a = Exp(x); b = Exp(x); y = Add(a, b)     ->     a = Exp(x); y = Add(a, a)
"""

from __future__ import annotations

import functools
import itertools
from collections import ChainMap
from collections.abc import Hashable
from dataclasses import dataclass, field

import onnx
import onnx_ir as ir

from passes.editing.edits import Edits, named
from passes.editing.nesting import subgraphs
from passes.editing.refusal import Refusal
from passes.editing.replacing import drop, hand_over
from passes.local import Scope
from passes.running.proof import RANDOM

# Beside what draws: Q and DQ, of which each reader wants its own (a shared DequantizeLinear fuses with no MatMul), and
# Constant, which is no computation.
NEVER = RANDOM | {"Constant", "DequantizeLinear", "Dropout", "QuantizeLinear"}

Table = ChainMap[Hashable, ir.Node]


@dataclass
class CommonSubexpressionElimination(Edits, ir.passes.InPlacePass):
    """Merge nodes of the same operator, attributes and inputs; a node in a branch with one before the branch.

    An attribute that says what its operator does anyway is none.

    Standard operators only: of others nobody knows whether they draw or count. Nodes that hold graphs stay. Where the
    second result is a graph output too, it becomes an Identity of the first.
    """

    refusals: list[Refusal] = field(default_factory=list, init=False)  # always empty: equal is equal

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        self.edited = []
        self._sweep(model.graph, ChainMap(), Scope(model))
        return ir.passes.PassResult(model, bool(self.edited))

    def _sweep(self, graph: ir.Graph, seen: Table, scope: Scope) -> None:
        for node in list(graph):
            inner = list(subgraphs(node))
            for subgraph in inner:
                self._sweep(subgraph, seen.new_child(), scope)
            key, name = None if inner else _key(node, scope.opset), named(node)
            first = node if key is None else seen.setdefault(key, node)
            if first is not node and self.may_edit and _merge(node, first, scope):
                self.edit(name)


def _key(node: ir.Node, opset: int) -> Hashable | None:
    if node.domain != "" or node.op_type in NEVER or not node.outputs:
        return None
    attributes = []
    for name, attribute in sorted(node.attributes.items()):
        if attribute.is_ref():
            return None
        attributes.append((name, attribute.type, _value(attribute)))
    said = [one for one in attributes if one not in _defaults(node.op_type, opset)]
    return (node.op_type, tuple(map(id, node.inputs)), tuple(said))


@functools.cache
def _defaults(op_type: str, opset: int) -> frozenset[Hashable]:
    """What an operator does where an attribute says nothing else."""
    try:
        schema = onnx.defs.get_schema(op_type, opset, "")
    except onnx.defs.SchemaError:
        return frozenset()
    given = [one.default_value for one in schema.attributes.values() if one.default_value.type]
    attributes = [ir.serde.deserialize_attribute(one) for one in given]
    return frozenset((one.name, one.type, _value(one)) for one in attributes)


def _value(attribute: ir.Attr) -> Hashable:
    if attribute.type == ir.AttributeType.TENSOR:
        tensor = attribute.as_tensor()
        return (tensor.dtype, tuple(tensor.shape), tensor.tobytes())
    return repr(attribute.value)  # 0.0 and -0.0 differ in it, and True and 1 do


def _merge(second: ir.Node, first: ir.Node, scope: Scope) -> bool:
    """Readers of the second read the first, if that has all results that they read."""
    if len(second.outputs) == len(first.outputs) == 1:
        return scope.replace(second, first.outputs[0])
    pairs = itertools.zip_longest(second.outputs, first.outputs)
    read = [(one, mine) for one, mine in pairs if one is not None and (one.uses() or one.is_graph_output())]
    for one, mine in read:
        if mine is None or not mine.name:
            return False
        if one.is_graph_output() and (mine.is_graph_output() or mine.graph is not one.graph):
            return False
    for one, mine in read:
        if one.is_graph_output():
            hand_over(one, mine, scope.names)
        else:
            one.replace_all_uses_with(mine)
    drop(second)
    return True
