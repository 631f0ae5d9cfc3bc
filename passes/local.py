"""A pass that looks at one node at a time, with what stands before it: what such passes share.

    class PadFusion(LocalPass):
        operators = frozenset({"Conv"})
        def rewrite(self, node, scope): ...     True: edited; False: no candidate; raises Refused: a near match

`rewrite` checks everything before it edits anything, so that a refusal leaves the graph as it was. Nodes are visited
in order, in the main graph and all graphs inside it, until a sweep changes nothing.
"""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from passes.editing.constants import FIRST_IR_WITH_PRIVATE_INITIALIZERS, IR_TOO_OLD, add_initializer
from passes.editing.edits import Edits, named
from passes.editing.naming import Names
from passes.editing.nesting import every_node
from passes.editing.refusal import Refusal
from passes.editing.replacing import become_identity, drop, hand_over
from passes.running.shared import shared
from passes.shapes.symbols import Symbols


class Refused(Exception):  # noqa: N818  it is no error: the node stays as it is
    """Carries the reason why one node stays."""


def require(condition: bool, reason: str) -> None:
    if not condition:
        raise Refused(reason)


@dataclass
class LocalPass(Edits, ir.passes.InPlacePass):
    """Visits the nodes of some standard operators; see the head of this file."""

    operators: ClassVar[frozenset[str]] = frozenset()

    refusals: list[Refusal] = field(default_factory=list, init=False)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        self.edited, self.refusals = [], []
        seen = shared(model)
        if self.operators.isdisjoint(seen.operators):
            return ir.passes.PassResult(model, modified=False)
        scope, nodes = Scope(model, self.edited), seen.nodes
        while self._sweep(nodes, scope):
            nodes = tuple(every_node(model.graph))
        return ir.passes.PassResult(model, modified=bool(self.edited))

    @abstractmethod
    def rewrite(self, node: ir.Node, scope: Scope) -> bool:
        """True: edited; False: no candidate. Raises: Refused where it nearly was one."""

    def _sweep(self, nodes: Sequence[ir.Node], scope: Scope) -> bool:
        self.refusals, before = [], len(self.edited)
        for node in nodes:
            if node.op_type in self.operators and node.domain == "" and node.graph is not None:
                self._visit(node, scope)
        return len(self.edited) > before

    def _visit(self, node: ir.Node, scope: Scope) -> None:
        if not self.may_edit:
            return
        name = named(node)
        try:
            edited = self.rewrite(node, scope)
        except Refused as reason:
            self.refusals.append(Refusal.of(node, str(reason)))
            return
        if edited:
            self.edit(name)


class Scope:
    """The model under a pass, and the edits that keep its names, outputs and shapes right."""

    def __init__(self, model: ir.Model, edited: list[str] | None = None) -> None:
        """`edited`: the edits of the pass so far, of one that may share what earlier passes know of the model."""
        self.model, self._edited = model, edited
        self.opset = model.opset_imports.get("", 1)

    @functools.cached_property
    def names(self) -> Names:
        return Names(self.model.graph)

    @functools.cached_property
    def symbols(self) -> Symbols:
        """What is known of shapes; values made after the first use are known by their declared shape alone."""
        return shared(self.model).symbols if self._edited == [] else Symbols(self.model.graph)

    def constant(self, array: Any, stem: str) -> ir.Value:
        """A new initializer of the main graph, where every graph inside sees it."""
        self.require_room()
        tensor = array if isinstance(array, ir.TensorProtocol) else ir.Tensor(np.array(array, order="C"))
        return add_initializer(self.model.graph, self.names.fresh(stem), tensor)

    def require_room(self) -> None:
        """Refuse where no initializer can be added."""
        require(self.model.ir_version >= FIRST_IR_WITH_PRIVATE_INITIALIZERS, IR_TOO_OLD)

    def insert(
        self,
        before: ir.Node,
        op_type: str,
        inputs: list[ir.Value | None],
        attributes: dict[str, Any] | None = None,
        *,
        like: ir.Value | None = None,
        shape: ir.Shape | None = None,
    ) -> ir.Value:
        """The result of a new node that stands before another; its type is that of `like`."""
        node = ir.node(op_type, inputs, attributes or {})
        result = node.outputs[0]
        stem = str((like or before.outputs[0]).name)
        result.name = self.names.fresh(f"{stem}_{op_type.lower()}")
        if like is not None and like.dtype is not None:
            result.type = ir.TensorType(like.dtype)
        result.shape = shape
        before.prepend(node)
        return result

    def replace(self, node: ir.Node, value: ir.Value, *, output: int = 0) -> bool:
        """Readers of the node's result read `value`; the node goes. A graph output keeps its name, type and shape.

        Where `value` cannot bear that name (an input, a constant, another output, a value of an outer graph), the node
        becomes an Identity; False where it is one already.
        """
        result = node.outputs[output]
        if not result.is_graph_output():
            if value.shape is None and result.shape is not None and not value.is_graph_output():
                value.shape = result.shape.copy()
            result.replace_all_uses_with(value)
            drop(node)
            return True
        producer = value.producer()
        if _is_input_of_its_body(value, node, self.model.graph):
            result.replace_all_uses_with(value, replace_graph_outputs=True)
            drop(node)
            return True
        if producer is None or value.is_graph_output() or value.graph is not node.graph:
            return become_identity(node, value)
        hand_over(result, value, self.names)
        drop(node)
        return True


def _is_input_of_its_body(value: ir.Value, node: ir.Node, root: ir.Graph) -> bool:
    """Then it goes out again as it is: the names of what a body gives mean nothing outside of it."""
    inside = value.graph is node.graph and node.graph is not root
    return inside and value.is_graph_input() and not value.is_graph_output()


def sole_reader(value: ir.Value) -> bool:
    """One reader, and no graph names the value as its output; a subgraph that captures it counts as a reader."""
    return len(value.uses()) == 1 and not value.is_graph_output()


def producer_of(value: ir.Value | None, *op_types: str) -> ir.Node | None:
    """The node that makes `value`, where it is a standard operator of one of these types."""
    node = value.producer() if value is not None else None
    return node if node is not None and node.domain == "" and node.op_type in op_types else None
