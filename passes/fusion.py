"""A pass that reads a formula backwards from its last node and writes one operator for it.

    class GeluFusion(Fusion):
        operator, first_opset = "Gelu", 20
        def find(self, node): ...             the formula that ends in this node, or None
        def fuse(self, node, found, build):   writes the operator; raises Refused: a near match
        def near(self, node): ...             why what is nearly the formula is not it

`find` looks and `fuse` checks before it writes, so that a refusal leaves the graph as it was. The main graph is visited
once, in order; what was only part of a formula is dead afterwards and removed.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar

import onnx_ir as ir

from passes.dead_node_elimination import DeadNodeElimination
from passes.editing.building import Builder
from passes.editing.edits import Edits, named
from passes.editing.refusal import Refusal
from passes.local import Refused, require

CONTRIB = "com.microsoft"

Found = TypeVar("Found")


@dataclass
class Fusion(Edits, ir.passes.InPlacePass, Generic[Found]):
    """See the head of this file."""

    operator: ClassVar[str]
    first_opset: ClassVar[int] = 1
    domain: ClassVar[str] = ""

    refusals: list[Refusal] = field(default_factory=list, init=False)

    @abstractmethod
    def find(self, node: ir.Node) -> Found | None:
        """The formula whose last node this is."""

    @abstractmethod
    def fuse(self, node: ir.Node, found: Found, build: Builder) -> None:
        """Write the operator in the formula's place. Raises: Refused."""

    def near(self, node: ir.Node) -> str:
        """Which value keeps what ends in this node from being the formula; empty where it is another formula."""
        del node
        return ""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        self.refusals, self.edited = [], []
        build = Builder(model.graph, model.opset_imports.get("", 1))
        for node in list(model.graph):
            if self.may_edit:
                self._visit(node, build)
        if self.edited:
            if self.domain:
                model.opset_imports[self.domain] = 1
            model.graph.sort()
            DeadNodeElimination()(model)
        return ir.passes.PassResult(model, bool(self.edited))

    def _visit(self, node: ir.Node, build: Builder) -> None:
        if node.graph is None:  # gone with an earlier formula
            return
        found: Any = self.find(node)
        if found is None:
            reason = self.near(node)
            self.refusals += [Refusal.of(node, reason)] if reason else []
            return
        name, opset = named(node), build.opset
        try:
            require(opset >= self.first_opset, f"opset {opset} has no {self.operator}; it came with {self.first_opset}")
            build.before(node)
            self.fuse(node, found, build)
        except Refused as reason:
            self.refusals.append(Refusal.of(node, str(reason)))
            return
        self.edit(name)
