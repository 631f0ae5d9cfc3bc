"""What a constant of a graph is: codes of a quantized weight, the grid they lie on, floats, or whole numbers.

Its type does not say: uint8 may be codes, zero points or a mask. Its readers do, and those behind operators that only
pick rows of it, shape it, or take its bytes apart:

    codes -> Reshape -> GatherBlockQuantized
    codes -> Gather -> BitwiseAnd, BitShift -> Concat -> DequantizeLinear
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import NamedTuple

import onnx_ir as ir

CODES, GRID, FLOATS, WHOLE_NUMBERS = "quantized codes", "scales and zero points", "floats", "whole numbers"
OUTLIERS = "outlier rows, float"  # of LLM.int8(); their codes are zeros

# Operator -> place of an input -> what a constant is that stands there.
READ_AS = {
    "ConvInteger": {1: CODES, 2: GRID, 3: GRID},
    "DequantizeLinear": {0: CODES, 1: GRID, 2: GRID},
    "GatherBlockQuantized": {0: CODES, 2: GRID, 3: GRID},
    "MatMulBnb4": {1: CODES, 2: GRID},
    "MatMulInteger": {0: CODES, 1: CODES, 2: GRID, 3: GRID},
    "MatMulNBits": {1: CODES, 2: GRID, 3: GRID},
    "QLinearConv": {3: CODES, **dict.fromkeys((1, 2, 4, 5, 6, 7), GRID)},
    "QLinearMatMul": {0: CODES, 3: CODES, **dict.fromkeys((1, 2, 4, 5, 6, 7), GRID)},
    "QuantizeLinear": {1: GRID, 2: GRID},
}
CARRIERS = frozenset({"BitShift", "BitwiseAnd", "Concat", "Gather", "Reshape"})  # of their first input; Concat of each
INTEGER_PRODUCTS, RANGE_OF_A_CALL = ("ConvInteger", "MatMulInteger"), "DynamicQuantizeLinear"


class Constant(NamedTuple):
    """A constant, what it is, and how many numbers it stands for: a byte may hold several codes."""

    tensor: ir.TensorProtocol
    kind: str
    entries: int


Readers = Counter[tuple[ir.Node, int]]  # who reads a value, at which place, and in how many ways it gets there


def constants(model: ir.Model) -> list[Constant]:
    """The initializers of all graphs."""
    readers = _readers(model)
    values = [value for graph in model.graphs() for value in graph.initializers.values()]
    return [_constant(value.const_value, readers[value]) for value in values if value.const_value is not None]


def _constant(tensor: ir.TensorProtocol, readers: Readers) -> Constant:
    found = {_read_as(*reader) for reader in readers}
    if CODES in found:
        return Constant(tensor, CODES, _codes(tensor, readers))
    plain = FLOATS if tensor.dtype.is_floating_point() else WHOLE_NUMBERS
    return Constant(tensor, next((kind for kind in (GRID, OUTLIERS) if kind in found), plain), int(tensor.size))


def _readers(model: ir.Model) -> defaultdict[ir.Value, Readers]:
    """The readers of every value, those behind carriers too, found from the last node to the first."""
    found: defaultdict[ir.Value, Readers] = defaultdict(Counter)
    for node in reversed(list(model.graph.all_nodes())):
        for place, value in enumerate(node.inputs):
            if value is None:
                continue
            found[value][node, place] += 1
            if node.op_type in CARRIERS and not node.domain and (place == 0 or node.op_type == "Concat"):
                found[value] += found[node.outputs[0]]
    return found


def _read_as(node: ir.Node, place: int) -> str | None:
    if node.op_type == "Mul" and _maker(node.inputs[1 - place], {"Cast"}) in (*INTEGER_PRODUCTS, RANGE_OF_A_CALL):
        return GRID
    if node.op_type == "MatMul" and place == 1 and _maker(node.inputs[0], set()) == "Gather":
        sums = [use.node for use in node.outputs[0].uses() if use.node.op_type == "Add"]
        return OUTLIERS if any(_maker(one.inputs[0], {"Cast", "Mul"}) in INTEGER_PRODUCTS for one in sums) else None
    return READ_AS.get(node.op_type, {}).get(place)


def _maker(value: ir.Value | None, behind: set[str]) -> str:
    """The operator that a value comes from, behind those that only scale it or change its type."""
    node = value.producer() if value is not None else None
    while node is not None and node.op_type in behind:
        node = node.inputs[0].producer() if node.inputs[0] is not None else None
    return node.op_type if node is not None else ""


def _codes(tensor: ir.TensorProtocol, readers: Readers) -> int:
    """How many codes the bytes hold, by their first reader.

    A product says its rows and columns, for the last block of a row may be filled up. A byte that is taken apart
    reaches its reader once for each code in it.
    """
    (node, _), ways = next(one for one in readers.items() if _read_as(*one[0]) == CODES)
    if "K" in node.attributes:
        return int(node.attributes["K"].as_int() * node.attributes["N"].as_int())
    if node.op_type == "GatherBlockQuantized" and tensor.dtype == ir.DataType.UINT8:
        return int(tensor.size * 8 // node.attributes.get_int("bits", 4))
    return int(tensor.size * ways)
