"""Writing into a graph: nodes before a place, constants, and one copy of what several places ask for.

build = Builder(graph); build.before(node)
y = build.one("Mul", [x, build.number(2.0, x.dtype)])
hand_over(old, y, build.names)          y takes old's name, type and readers
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from passes.editing.constants import add_initializer
from passes.editing.naming import Names

Inputs = Sequence[ir.Value | None]
FIRST_SHAPE_OF_SOME_AXES = 15


class Builder:
    """Writes nodes into one graph, in front of the node it was last pointed at."""

    def __init__(self, graph: ir.Graph, opset: int) -> None:
        self.graph, self.opset = graph, opset
        self._place: ir.Node | None = None
        self._known: dict[Any, ir.Value] = {}

    @functools.cached_property
    def names(self) -> Names:
        return Names(self.graph)

    def before(self, node: ir.Node) -> None:
        """Where the next nodes stand."""
        self._place = node

    def node(
        self,
        op_type: str,
        inputs: Inputs,
        attributes: Mapping[str, Any] | None = None,
        *,
        domain: str = "",
        outputs: int = 1,
    ) -> Sequence[ir.Value]:
        """A new node; its outputs, named after the operator."""
        assert self._place is not None  # set by before
        made = ir.node(op_type, list(inputs), attributes, domain=domain, num_outputs=outputs)
        for value in made.outputs:
            value.name = self.names.fresh(op_type.lower())
        self.graph.insert_before(self._place, made)
        return made.outputs

    def one(self, op_type: str, inputs: Inputs, attributes: Mapping[str, Any] | None = None) -> ir.Value:
        """A new standard node of one output."""
        return self.node(op_type, inputs, attributes)[0]

    def shared(self, op_type: str, inputs: Inputs, attributes: Mapping[str, Any] | None = None) -> ir.Value:
        """The same, made at the first call: later ones with equal inputs and attributes get what is there."""
        key = (op_type, tuple(inputs), str(attributes))
        if key not in self._known:
            self._known[key] = self.one(op_type, inputs, attributes)
        return self._known[key]

    def length(self, value: ir.Value, axis: int) -> ir.Value:
        """How long one axis is, as a vector of one number."""
        if self.opset >= FIRST_SHAPE_OF_SOME_AXES:
            return self.shared("Shape", [value], {"start": axis, "end": axis + 1})
        return self.shared("Gather", [self.shared("Shape", [value]), self.integers([axis])])

    def vector(self, numbers: Sequence[float], dtype: ir.DataType) -> ir.Value:
        """A constant vector, one for all places that need these numbers."""
        return self._constant(np.array(numbers, dtype.numpy()))

    def integers(self, numbers: Sequence[int], dtype: ir.DataType = ir.DataType.INT64) -> ir.Value:
        """The same of whole numbers."""
        return self._constant(np.array(numbers, dtype.numpy()))

    def number(self, number: Any, dtype: ir.DataType) -> ir.Value:
        """A constant scalar."""
        return self._constant(np.array(number, dtype.numpy()))

    def initializer(self, tensor: ir.TensorProtocol, stem: str) -> ir.Value:
        """A new constant of its own, named `stem` or much like it."""
        return add_initializer(self.graph, self.names.fresh(stem), tensor)

    def _constant(self, array: np.ndarray[Any, np.dtype[Any]]) -> ir.Value:
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._known:
            self._known[key] = self.initializer(ir.tensor(array), "constant")
        return self._known[key]
