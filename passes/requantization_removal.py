"""Quantizing again what was just dequantized, with the same scale and zero point, gives back the same codes.

   d = DequantizeLinear(q, s, z); y = QuantizeLinear(d, s, z)                     ->     y = q
   d = DequantizeLinear(K, s, z); r = Reshape(d, t); y = QuantizeLinear(r, s, z)  ->     y = Reshape(K, t)       K fixed

    round(((q - z) s) / s) + z  =  q

holds in float32 for codes of up to 16 bits: the quotient is within 2^-22 of a whole number below 2^17.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import onnx_ir as ir

from passes.editing.constants import constant
from passes.local import LocalPass, Scope, producer_of, require

# What puts the entries elsewhere, whatever they are, and takes them from its first input.
MOVES = ("Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
SMALLEST, LARGEST = 2.0**-100, 2.0**100  # a scale that neither overflows nor loses digits, times a code
WIDEST_CODE = 16  # bits


class RequantizationRemoval(LocalPass):
    """Readers of the second read the codes.

    Scale and zero point are constants, equal bit for bit, along the same axis; the codes have the type that the
    second gives. Of constants also through nodes that only move entries, with one scale for all: the moved constant
    stays quantized. A DequantizeLinear behind a QuantizeLinear stays, for that pair is the quantization itself.
    """

    operators: ClassVar[frozenset[str]] = frozenset({"QuantizeLinear"})

    def rewrite(self, node: ir.Node, scope: Scope) -> bool:
        moves, origin = _walk_back(node)
        codes = origin.inputs[0] if origin is not None else None
        if origin is None or codes is None:
            return False
        scale = constant(node.inputs[1])
        require(scale is not None and constant(origin.inputs[1]) is not None, "a scale is computed at run time")
        assert scale is not None  # held by the line above
        same = all(_equal(_parameter(origin, place), _parameter(node, place)) for place in (1, 2))
        require(same and _layout(origin) == _layout(node), "the two have other scales, zero points or axes")
        result = _type_given(node)
        require(codes.dtype is not None and codes.dtype == result, f"the codes are {codes.dtype} and become {result}")
        require(_is_exact(scale, codes.dtype or ir.DataType.INT32), "its codes or its scale are too large for float32")
        if not moves:
            return scope.replace(node, codes)
        if constant(codes) is None or scale.size != 1:
            return False
        return scope.replace(node, _moved(codes, moves, node, scope))


def _walk_back(node: ir.Node) -> tuple[list[ir.Node], ir.Node | None]:
    """The moves before a node, first things first, and the DequantizeLinear before them."""
    moves: list[ir.Node] = []
    value = node.inputs[0]
    while (step := producer_of(value, *MOVES)) is not None:
        moves.insert(0, step)
        value = step.inputs[0]
    return moves, producer_of(value, "DequantizeLinear")


def _parameter(node: ir.Node, place: int) -> ir.Value | None:
    return node.inputs[place] if place < len(node.inputs) else None


def _equal(one: ir.Value | None, other: ir.Value | None) -> bool:
    """Both left out, or constants of the same type, shape and bytes."""
    if one is None or other is None:
        return one is other
    a, b = constant(one), constant(other)
    if a is None or b is None:
        return False
    return a is b or (a.dtype == b.dtype and tuple(a.shape) == tuple(b.shape) and a.tobytes() == b.tobytes())


def _type_given(node: ir.Node) -> ir.DataType:
    """The zero point's; uint8 where there is none and no attribute speaks."""
    zero = _parameter(node, 2)
    given = zero.dtype if zero is not None else ir.DataType(node.attributes.get_int("output_dtype", 0))
    return given or ir.DataType.UINT8


def _layout(node: ir.Node) -> tuple[int, int]:
    return node.attributes.get_int("axis", 1), node.attributes.get_int("block_size", 0)


def _is_exact(scale: ir.TensorProtocol, codes: ir.DataType) -> bool:
    if scale.dtype != ir.DataType.FLOAT or not codes.is_integer() or codes.bitwidth > WIDEST_CODE:
        return False
    sizes = np.abs(scale.numpy())
    return bool(((sizes >= SMALLEST) & (sizes <= LARGEST)).all())


def _moved(codes: ir.Value, moves: list[ir.Node], node: ir.Node, scope: Scope) -> ir.Value:
    """The same moves, of the codes."""
    value = codes
    for move in moves:
        attributes = {name: attribute.value for name, attribute in move.attributes.items()}
        inputs = [value, *move.inputs[1:]]
        value = scope.insert(node, move.op_type, inputs, attributes, like=codes, shape=move.outputs[0].shape)
    return value
