"""What is known of shapes before a run: each dimension as a polynomial of symbols, and what small shape tensors hold.

    x: float[N, 12, 64]         shape(x)   = (N, 12, 64)
    s = Shape(x)                content(s) = (N, 12, 64)
    n = s[0] * s[1] + 1         content(n) = (12 N + 1,)

A symbol stands for one axis of one value, so that two equal polynomials are equal in every run. The names that a file
gives to the dimensions of its inputs are used on demand alone: nothing holds a caller to them.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from passes.editing.constants import constant
from passes.editing.nesting import every_node
from passes.shapes import picture_rules, shape_rules
from passes.shapes.content_rules import CONTENTS
from passes.shapes.shape_rules import OF_MANY_OUTPUTS
from passes.shapes.size_rules import Partial, Rule
from passes.shapes.sizes import ENTRY, GIVEN, Size, Sizes

SHAPES = shape_rules.SHAPES | picture_rules.SHAPES
LONGEST_CONTENT = 64  # entries; shapes are shorter, and weights are not for us
INFERRED = "shape as inferred"  # key in `Value.meta` of a graph output


class Symbols:
    """Shapes and contents of the values of a graph and of the graphs inside it."""

    def __init__(self, root: ir.Graph, *, trust_names: bool = False) -> None:
        """`trust_names`: dimensions under the name of an input's dimension are equal to it, as their author says."""
        self._names = _trusted(root) if trust_names else {}
        self._shapes: dict[ir.Value, Sizes | None] = {}
        self._contents: dict[ir.Value, Sizes | None] = {}
        for node in every_node(root):
            self._note(node)

    def shape(self, value: ir.Value | None) -> Sizes | None:
        """One size an axis; None where not even the rank is known."""
        if value is None:
            return None
        if value not in self._shapes:
            self._shapes[value] = self._declared(value)
        return self._shapes[value]

    def content(self, value: ir.Value | None) -> Sizes | None:
        """The entries of a small integer tensor of rank 0 or 1."""
        if value is None:
            return None
        if value not in self._contents:
            self._contents[value] = _held(value)
        return self._contents[value]

    def _note(self, node: ir.Node) -> None:
        for place, rule in OF_MANY_OUTPUTS.get((node.domain, node.op_type), {}).items():
            if place < len(node.outputs):
                self._shapes[node.outputs[place]] = self._shape_by(rule, node, place)
        if node.domain != "" or len(node.outputs) != 1:
            return
        output = node.outputs[0]
        if content_rule := CONTENTS.get(node.op_type):
            self._contents[output] = self._content_by(content_rule, node)
        if shape_rule := SHAPES.get(node.op_type):
            self._shapes[output] = self._shape_by(shape_rule, node)

    def _shape_by(self, rule: Rule, node: ir.Node, place: int = 0) -> Sizes | None:
        output = node.outputs[place]
        return _refined(output, self._declared(output), rule(node, self))

    def _content_by(self, rule: Rule, node: ir.Node) -> Sizes | None:
        output = node.outputs[0]
        if output.dtype not in (None, ir.DataType.INT64, ir.DataType.INT32):
            return None
        shape = self._declared(output)
        if shape is not None and len(shape) > 1:
            return None
        found = rule(node, self)
        if found is None or len(found) > LONGEST_CONTENT:
            return None
        # An entry that no rule can tell is a symbol of its own.
        own = f"{output.name}{ENTRY}"
        return tuple(Size.symbol(own, i) if one is None else one for i, one in enumerate(found))

    def _declared(self, value: ir.Value) -> Sizes | None:
        """The shape that inference or the file gives; what an output declares is its author's word, and not used."""
        tensor = constant(value)
        if tensor is not None:
            return tuple(Size.of(size) for size in tensor.shape.numpy())
        shape = value.meta.get(INFERRED, None) if value.is_graph_output() else value.shape
        if shape is None:
            return None
        own = f"{GIVEN}{value.name}" if value.is_graph_input() else str(value.name)
        return tuple([self._size(size, own, axis) for axis, size in enumerate(shape)])

    def _size(self, size: int | ir.SymbolicDim, own: str, axis: int) -> Size:
        if isinstance(size, int):
            return Size.of(size) if size >= 0 else Size.symbol(own, axis)
        return self._names.get(str(size.value)) or Size.symbol(own, axis)


def _trusted(root: ir.Graph) -> dict[str, Size]:
    """The axes of inputs by their names; a name that one input bears twice, such as "?", is none."""
    known: set[str] = set()
    distrusted: set[str] = set()
    for value in root.inputs:
        names = [size.value for size in value.shape or () if isinstance(size, ir.SymbolicDim) and size.value]
        known |= set(names)
        distrusted |= {name for name in names if names.count(name) > 1}
    return {name: Size.symbol(f"{GIVEN}{name}", 0) for name in known - distrusted}


def _refined(output: ir.Value, declared: Sizes | None, rule: Partial | None) -> Sizes | None:
    """A number that inference knows, else what the rule says, else a symbol of the output's own."""
    if rule is None:
        return declared
    if declared is None or len(declared) != len(rule):
        own = (Size.symbol(str(output.name), axis) for axis in range(len(rule)))
        return tuple(mine if one is None else one for one, mine in zip(rule, own, strict=True))
    pairs = zip(declared, rule, strict=True)
    return tuple(mine if one is None or mine.known is not None else one for mine, one in pairs)


def _held(value: ir.Value) -> Sizes | None:
    tensor = constant(value)
    if tensor is None or tensor.dtype not in (ir.DataType.INT64, ir.DataType.INT32):
        return None
    if len(tensor.shape) > 1 or tensor.size > LONGEST_CONTENT:
        return None
    return tuple(Size.of(int(number)) for number in np.atleast_1d(tensor.numpy()))
