"""Append nodes to a graph: `op("Add", x, 1)` is the value x + 1; `op.choose(c, f, g)` writes both, and one will run.

Whole numbers among the inputs become int64 constants; equal ones are written once. Names count up, so that equal
inputs give equal bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray


class Scribe:
    """Writes at the end of one graph; `prefix` keeps its names apart from those already there."""

    def __init__(self, graph: ir.Graph, prefix: str) -> None:
        self.graph, self.prefix = graph, prefix
        self.body = graph  # or a branch, while it is written
        self.constants: dict[str, ir.Value] = {}
        self.written = 0

    def __call__(self, op_type: str, *inputs: Any, **attributes: Any) -> ir.Value:
        """The output of a new standard node."""
        return self.node(op_type, *inputs, **attributes).outputs[0]

    def node(self, op_type: str, *inputs: Any, domain: str = "", outputs: int = 1, **attributes: Any) -> ir.Node:
        """A new node; inputs are values, whole numbers, lists of them, or None for one left out."""
        self.written += 1
        name = f"{self.prefix}/{self.written}"
        given = [one if isinstance(one, ir.Value) or one is None else self.constant(one) for one in inputs]
        node = ir.node(op_type, given, attributes, domain=domain, num_outputs=outputs, name=name)
        for index, value in enumerate(node.outputs):
            value.name = f"{name}.{index}"
        self.body.append(node)
        return node

    def choose(
        self, condition: ir.Value, then: Callable[[], list[ir.Value]], otherwise: Callable[[], list[ir.Value]]
    ) -> list[ir.Value]:
        """What `then` writes where the condition holds, else what `otherwise` does; constants stay outside."""
        one, other = self._branch(then), self._branch(otherwise)
        node = self.node("If", condition, outputs=len(one.outputs), then_branch=one, else_branch=other)
        return list(node.outputs)

    def _branch(self, write: Callable[[], list[ir.Value]]) -> ir.Graph:
        outside, self.body = self.body, ir.Graph([], [], nodes=[], name=f"{self.prefix}/branch {self.written}")
        self.body.outputs.extend(write())
        branch, self.body = self.body, outside
        return branch

    def constant(self, number: int | list[int]) -> ir.Value:
        key = f"{self.prefix}/constant {number}"
        if key not in self.constants:
            self.constants[key] = self.initializer(key, np.array(number, np.int64))
        return self.constants[key]

    def initializer(self, name: str, array: NDArray[Any]) -> ir.Value:
        value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
        self.graph.register_initializer(value)
        return value
