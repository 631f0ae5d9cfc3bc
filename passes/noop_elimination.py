"""A node that returns what it was given is not there.

    Identity, Cast to the same type, Transpose that moves nothing, Pad by nothing, Slice of everything, Reshape, Expand,
    Tile to the same shape, x + 0, x * 1, and, or, one-armed Concat, Sum, Max, Split, Relu(Relu(x)), Neg(Neg(x)), ...

The result must have the type, the rank and every dimension of what is kept, provably: x * ones(1, 1, 1) may have a rank
more. Constants are compared exactly. x + 0.0 turns -0.0 into 0.0; the two compare equal, and it counts as nothing done.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from passes.editing.constants import constant
from passes.local import LocalPass, Refused, Scope, producer_of
from passes.shapes.size_rules import LARGEST_SIZE, axes_of, slice_bounds
from passes.shapes.sizes import known

Rule = Callable[[ir.Node, Scope], ir.Value | None]


class NoopElimination(LocalPass):
    """Readers of a no-op read its input. A graph output that is an input or a constant keeps an Identity."""

    def rewrite(self, node: ir.Node, scope: Scope) -> bool:
        kept = RULES[node.op_type](node, scope)
        if kept is None or any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
            return False
        result = node.outputs[0]
        if kept.dtype is not None and result.dtype is not None and kept.dtype != result.dtype:
            raise Refused(f"'{kept.name}' is {kept.dtype} and '{result.name}' is declared {result.dtype}")
        return scope.replace(node, kept)


def _always(node: ir.Node, scope: Scope) -> ir.Value | None:
    del scope
    return node.inputs[0]


def _alone(node: ir.Node, scope: Scope) -> ir.Value | None:
    del scope
    return node.inputs[0] if len(node.inputs) == 1 and len(node.outputs) == 1 else None


def _same_type(node: ir.Node, scope: Scope) -> ir.Value | None:
    del scope
    value = node.inputs[0]
    if node.op_type == "CastLike":
        target = node.inputs[1].dtype if node.inputs[1] is not None else None
    else:
        target = ir.DataType(node.attributes.get_int("to", 0))
    return value if value is not None and value.dtype is not None and value.dtype == target else None


def _same_shape(node: ir.Node, scope: Scope) -> ir.Value | None:
    """Reshape and its kin keep the order of the entries: the same shape is the same tensor."""
    before, after = scope.symbols.shape(node.inputs[0]), scope.symbols.shape(node.outputs[0])
    return node.inputs[0] if before is not None and before == after else None


def _same_order(node: ir.Node, scope: Scope) -> ir.Value | None:
    order = node.attributes["perm"].as_ints() if "perm" in node.attributes else None
    if order is None:
        shape = scope.symbols.shape(node.inputs[0])
        return node.inputs[0] if shape is not None and len(shape) < 2 else None
    return node.inputs[0] if list(order) == sorted(order) else None


def _unpadded(node: ir.Node, scope: Scope) -> ir.Value | None:
    if "pads" in node.attributes:
        return node.inputs[0] if not any(node.attributes["pads"].as_ints()) else None
    pads = known(scope.symbols.content(node.inputs[1])) if len(node.inputs) > 1 else None
    return node.inputs[0] if pads is not None and not any(pads) else None


def _uncut(node: ir.Node, scope: Scope) -> ir.Value | None:
    bounds, shape = slice_bounds(node, scope.symbols), scope.symbols.shape(node.inputs[0])
    if bounds is None or any(step != 1 for *_, step in bounds):
        return None
    if all(start == 0 and end >= LARGEST_SIZE for _, start, end, _ in bounds):
        return node.inputs[0]
    numbers = None if shape is None else [size.known for size in shape]
    if numbers is None:
        return None
    for axis, start, end, _ in bounds:
        size = numbers[axis]
        if size is None or len(range(size)[start:end]) != size:
            return None
    return node.inputs[0]


def _neutral(number: float, *, either_side: bool) -> Rule:
    """x + 0 and the like: the other operand is `number` throughout and widens nothing."""

    def rule(node: ir.Node, scope: Scope) -> ir.Value | None:
        if len(node.inputs) != 2 or "broadcast" in node.attributes:
            return None
        sides = ((0, 1), (1, 0)) if either_side else ((0, 1),)
        for kept, other in sides:
            tensor = constant(node.inputs[other])
            if tensor is not None and _is_all(tensor, number):
                shape = scope.symbols.shape(node.inputs[kept])
                if shape is not None and shape == scope.symbols.shape(node.outputs[0]):
                    return node.inputs[kept]
        return None

    return rule


def _is_all(tensor: ir.TensorProtocol, number: float) -> bool:
    if tensor.dtype == ir.DataType.STRING or tensor.size == 0:
        return False
    return bool(np.all(tensor.numpy() == number))


def _once(node: ir.Node, scope: Scope) -> ir.Value | None:
    repeats = known(scope.symbols.content(node.inputs[1])) if len(node.inputs) == 2 else None
    return node.inputs[0] if repeats is not None and all(one == 1 for one in repeats) else None


def _unscaled(node: ir.Node, scope: Scope) -> ir.Value | None:
    """Resize and Upsample by 1 on every axis; a crop is none."""
    if node.attributes.get_string("mode", "nearest") not in ("nearest", "linear"):
        return None
    if node.attributes.get_string("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        return None
    place = 1 if node.op_type == "Upsample" or scope.opset < 11 else 2
    scales = constant(node.inputs[place]) if len(node.inputs) == place + 1 else None
    return node.inputs[0] if scales is not None and _is_all(scales, 1.0) else None


def _reduced_nothing(node: ir.Node, scope: Scope) -> ir.Value | None:
    """A sum, mean, product or extreme over axes of one entry."""
    shape, axes = scope.symbols.shape(node.inputs[0]), axes_of(node, scope.symbols)
    if not shape or not axes or node.attributes.get_int("keepdims", 1) != 1:
        return None
    return node.inputs[0] if all(shape[axis].known == 1 for axis in axes) else None


def _repeated(node: ir.Node, scope: Scope) -> ir.Value | None:
    """Relu(Relu(x)): the second finds nothing to do."""
    del scope
    return node.inputs[0] if producer_of(node.inputs[0], node.op_type) is not None else None


def _undone(node: ir.Node, scope: Scope) -> ir.Value | None:
    """Neg(Neg(x)) is x."""
    del scope
    inner = producer_of(node.inputs[0], node.op_type)
    return inner.inputs[0] if inner is not None else None


def _chosen(node: ir.Node, scope: Scope) -> ir.Value | None:
    """The entry at a known place of a sequence that is made here."""
    del scope
    made, place = producer_of(node.inputs[0], "SequenceConstruct"), constant(node.inputs[1])
    if made is None or place is None:
        return None
    at = int(place.numpy().reshape(-1)[0])
    return made.inputs[at] if -len(made.inputs) <= at < len(made.inputs) else None


RULES: dict[str, Rule] = {
    "Identity": _always,
    **dict.fromkeys(("Cast", "CastLike"), _same_type),
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Expand"), _same_shape),
    **dict.fromkeys(("Concat", "Max", "Mean", "Min", "Split", "Sum"), _alone),
    **dict.fromkeys(("Abs", "Ceil", "Floor", "Relu", "Round", "Sign"), _repeated),
    **dict.fromkeys(("Neg", "Not"), _undone),
    **dict.fromkeys(("ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum"), _reduced_nothing),
    **dict.fromkeys(("Resize", "Upsample"), _unscaled),
    "Add": _neutral(0, either_side=True),
    "And": _neutral(True, either_side=True),
    "Div": _neutral(1, either_side=False),
    "Mul": _neutral(1, either_side=True),
    "Or": _neutral(False, either_side=True),
    "Pad": _unpadded,
    "Pow": _neutral(1, either_side=False),
    "SequenceAt": _chosen,
    "Slice": _uncut,
    "Sub": _neutral(0, either_side=False),
    "Tile": _once,
    "Transpose": _same_order,
}

NoopElimination.operators = frozenset(RULES)
