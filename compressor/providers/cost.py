"""What a node weighs: bytes of its constants and floating-point operations of one run, read off its shapes.

A free axis counts as 1: the FLOPs are those of one row and one token, which ranks nodes, and is no time. A product of
[.., m, k] and [k, n] is 2 m k n; data that only moves is 0; every other node is one operation an output element.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import onnx_ir as ir

from compressor.providers.graph_types import dims

Flops = Callable[[ir.Node], int]

MOVES = frozenset((
    "Cast", "CastLike", "Concat", "ConstantOfShape", "DepthToSpace", "Expand", "Flatten", "Gather",
    "GatherElements", "GatherND", "GatherBlockQuantized", "Identity", "If", "Loop", "OneHot", "Pad", "Range",
    "Reshape", "Scan", "ScatterElements", "ScatterND", "Shape", "Size", "Slice", "SpaceToDepth", "Split",
    "Squeeze", "Tile", "Transpose", "Unsqueeze", "Where",
))  # fmt: skip


def flops(node: ir.Node) -> int:
    """Floating-point operations of one run."""
    return PRODUCTS[node.op_type](node) if node.op_type in PRODUCTS else _elements(node)


def weight_bytes(nodes: Iterable[ir.Node]) -> dict[ir.Node, int]:
    """Bytes of the constants that each node reads; a shared one counts where it is read first."""
    seen: set[ir.Value] = set()
    found: dict[ir.Node, int] = {}
    for node in nodes:
        own = {value for value in node.inputs if value is not None and value.const_value is not None} - seen
        seen |= own
        found[node] = sum(value.const_value.nbytes for value in own if value.const_value is not None)
    return found


def _count(sizes: Iterable[int | None] | None) -> int:
    return math.prod(1 if size is None else size for size in sizes or ())


def _elements(node: ir.Node) -> int:
    return 0 if node.op_type in MOVES else _count(dims(node.outputs[0]) if node.outputs else None)


def _product(left: int, right: int) -> Flops:
    """MatMul and its kin: the inputs at these places are [.., m, k] and [.., k, n]."""

    def count(node: ir.Node) -> int:
        rows, matrix = dims(node.inputs[left]) or [], dims(node.inputs[right]) or []
        if not matrix:
            return 0
        return 2 * _count(rows[:-1] or [1]) * _count(matrix[-2:])

    return count


def _gemm(node: ir.Node) -> int:
    rows, matrix = dims(node.inputs[0]) or [1, 1], dims(node.inputs[1]) or [1, 1]
    m = rows[1] if node.attributes.get_int("transA", 0) else rows[0]
    return 2 * (m or 1) * _count(matrix)


def _convolution(weight: int) -> Flops:
    """2 x output pixels x what one of them sums; a transposed one sums once for each pixel of its input."""

    def count(node: ir.Node) -> int:
        kernel = dims(node.inputs[weight]) or []
        pixels = dims(node.inputs[0] if node.op_type == "ConvTranspose" else node.outputs[0]) or []
        return 2 * _count(pixels[:1]) * _count(pixels[2:]) * _count(kernel)

    return count


def _packed(node: ir.Node) -> int:
    """MatMulNBits states K and N; its weight's shape is that of the packed codes."""
    rows = dims(node.inputs[0]) or []
    return 2 * _count(rows[:-1] or [1]) * node.attributes.get_int("K", 0) * node.attributes.get_int("N", 0)


def _recurrent(node: ir.Node) -> int:
    steps, inputs, hidden = ((dims(node.inputs[place]) or [1, 1, 1]) for place in (0, 1, 2))
    return 2 * _count(steps[:2]) * (_count(inputs) + _count(hidden))


PRODUCTS: dict[str, Flops] = {
    "MatMul": _product(0, 1), "FusedMatMul": _product(0, 1), "MatMulInteger": _product(0, 1),
    "DynamicQuantizeMatMul": _product(0, 1), "MatMulIntegerToFloat": _product(0, 1), "QLinearMatMul": _product(0, 3),
    "Gemm": _gemm, "MatMulNBits": _packed, "MatMulBnb4": _packed,
    "Conv": _convolution(1), "ConvInteger": _convolution(1), "ConvTranspose": _convolution(1),
    "QLinearConv": _convolution(3), **dict.fromkeys(("LSTM", "GRU", "RNN"), _recurrent),
}  # fmt: skip
