"""What a graph computes about its own shapes is written down where it is known.

   n = Gather(Shape(x), 0); s = Concat(n, [12], [64]); y = Reshape(x, s)         x: [N, S, 768]
-> y = Reshape(x, [0, -1, 12, 64])
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from passes.dead_node_elimination import DeadNodeElimination
from passes.editing.constants import constant
from passes.local import LocalPass, Refused, Scope
from passes.shapes.content_rules import CONTENTS
from passes.shapes.size_rules import LARGEST_SIZE
from passes.shapes.sizes import GIVEN, ONE, Size, Sizes, known, product

INTEGERS = {ir.DataType.INT64: np.int64, ir.DataType.INT32: np.int32}


_Content = tuple[Sizes, int, ir.DataType]  # entries, rank, type


@dataclass
class ShapeArithmetic(LocalPass):
    """Shape tensors become constants: whole where each entry is a number, else in the form that their reader allows.

    Reshape    0 for a dimension of the input at the same place, -1 for one that is left
    Expand     1 for a dimension that the input has anyway
    Slice      the largest number for an end that is the input's own
    Range      a number for a vector of one entry
    Sizes that another node of the graph has found already are read there.
    Not done: two dimensions left, or a -1 beside a 0 that copies a dimension only a run can tell to be more than none.
    """

    operators: ClassVar[frozenset[str]] = frozenset({*CONTENTS, "Expand", "Range"})

    found: dict[_Content, ir.Value] = field(default_factory=dict, init=False, repr=False)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """What only computed the sizes goes at once: it is often half of the graph, and later passes walk over it."""
        self.found = {}
        result = super().call(model)
        if result.modified:
            DeadNodeElimination()(model)
        return result

    def rewrite(self, node: ir.Node, scope: Scope) -> bool:
        known_now = _is_number(node, scope) or _is_found(node, scope, self.found)
        return known_now or (node.op_type in READERS and READERS[node.op_type](node, scope))


def _is_number(node: ir.Node, scope: Scope) -> bool:
    """Every entry of the result is known before the run."""
    if node.op_type not in CONTENTS or len(node.outputs) != 1:
        return False
    output = node.outputs[0]
    content, shape = scope.symbols.content(output), scope.symbols.shape(output)
    numbers = known(content)
    dtype = INTEGERS.get(output.dtype or _type(node))
    if numbers is None or dtype is None or shape is None or len(shape) > 1 or output.is_graph_output():
        return False
    array = np.array(numbers if shape else numbers[0])
    if not np.array_equal(array, array.astype(dtype)):
        return False
    return scope.replace(node, scope.constant(array.astype(dtype), f"{output.name}_known"))


def _is_found(node: ir.Node, scope: Scope, found: dict[_Content, ir.Value]) -> bool:
    """Its entries are those of a value that stands before it; the first of them is kept."""
    output, root = node.outputs[0], scope.model.graph
    content, shape = scope.symbols.content(output), scope.symbols.shape(output)
    if node.op_type not in CONTENTS or node.graph is not root or not content or shape is None:
        return False
    first = found.setdefault((content, len(shape), output.dtype or _type(node)), output)
    if first is output or first.producer() is None or first.graph is not root:
        found[content, len(shape), output.dtype or _type(node)] = output
        return False
    return scope.replace(node, first)


def _type(node: ir.Node) -> ir.DataType:
    """Shape and Size give INT64; the others give what they get."""
    if node.op_type in ("Shape", "Size"):
        return ir.DataType.INT64
    given = node.inputs[0].dtype if node.inputs and node.inputs[0] is not None else None
    return ir.DataType.UNDEFINED if given is None or node.op_type == "Cast" else given


def _reshape(node: ir.Node, scope: Scope) -> bool:
    if len(node.inputs) < 2 or constant(node.inputs[1]) is not None:
        return False
    source, target = scope.symbols.shape(node.inputs[0]), scope.symbols.shape(node.outputs[0])
    if source is None or target is None or scope.symbols.content(node.inputs[1]) is None:
        return False
    entries = express(target, source)
    node.attributes.pop("allowzero", None)  # a 0 of ours copies a dimension that is 0 where theirs was
    return _give(node, 1, entries, scope)


def express(target: Sizes, source: Sizes) -> list[int]:
    """`target` as Reshape wants it, relative to a `source` of as many entries. Raises Refused where it cannot be."""
    written = [_entry(size, source, place) for place, size in enumerate(target)]
    left = [place for place, entry in enumerate(written) if entry is None]
    if any(size.known == 0 for size in target):
        raise Refused("a dimension of 0 would copy the input's")
    if len(left) > 1:
        raise Refused(f"the dimensions {left} are left to the run, and one -1 stands for one")
    copied = [size for size, entry in zip(target, written, strict=True) if entry == 0]
    if left and copied and _may_be_none(copied):
        raise Refused("a -1 beside a copied dimension fails where that one is 0")
    return [-1 if entry is None else entry for entry in written]


def _may_be_none(sizes: Sequence[Size]) -> bool:
    """A size that no graph input carries may be that of an empty selection."""
    return not all(name.startswith(GIVEN) for name, _ in product(sizes).symbols)


def _entry(size: Size, source: Sizes, place: int) -> int | None:
    if size.known is not None:
        return size.known
    return 0 if place < len(source) and size == source[place] else None


def _expand(node: ir.Node, scope: Scope) -> bool:
    source, target = scope.symbols.shape(node.inputs[0]), scope.symbols.content(node.inputs[1])
    if constant(node.inputs[1]) is not None or source is None or target is None:
        return False
    padded = (ONE,) * (len(target) - len(source)) + source
    written = [1 if size == mine else size.known for size, mine in zip(target, padded[-len(target) :], strict=True)]
    if None in written:
        return False
    return _give(node, 1, [entry for entry in written if entry is not None], scope)


def _slice(node: ir.Node, scope: Scope) -> bool:
    if len(node.inputs) < 3 or constant(node.inputs[2]) is not None:
        return False
    source, ends = scope.symbols.shape(node.inputs[0]), scope.symbols.content(node.inputs[2])
    if source is None or ends is None:
        return False
    axes = known(scope.symbols.content(node.inputs[3])) if len(node.inputs) > 3 else list(range(len(ends)))
    steps = known(scope.symbols.content(node.inputs[4])) if len(node.inputs) > 4 else [1] * len(ends)
    if axes is None or steps is None or any(step < 1 for step in steps):
        return False
    written = [LARGEST_SIZE if end == source[axis] else end.known for end, axis in zip(ends, axes, strict=True)]
    if None in written:
        return False
    return _give(node, 2, [entry for entry in written if entry is not None], scope)


def _give(node: ir.Node, place: int, entries: list[int], scope: Scope) -> bool:
    old = node.inputs[place]
    dtype = INTEGERS.get((old.dtype if old is not None else None) or ir.DataType.INT64, np.int64)
    node.replace_input_with(place, scope.constant(np.array(entries, dtype), f"{node.outputs[0].name}_shape"))
    return True


def _range(node: ir.Node, scope: Scope) -> bool:
    """ONNX Runtime takes a vector of one entry for a number as long as it cannot see its shape, and then refuses it."""
    vectors = [place for place, value in enumerate(node.inputs) if scope.symbols.shape(value) == (ONE,)]
    for place in vectors:
        vector = node.inputs[place]
        tensor = constant(vector)
        if tensor is not None:
            number = scope.constant(tensor.numpy().reshape(()), f"{node.outputs[0].name}_number")
        else:
            no_axis = scope.constant(np.array([], np.int64), f"{node.outputs[0].name}_no_axis")
            number = scope.insert(node, "Reshape", [vector, no_axis], like=vector, shape=ir.Shape([]))
        node.replace_input_with(place, number)
    return bool(vectors)


READERS = {"Expand": _expand, "Range": _range, "Reshape": _reshape, "Slice": _slice}
