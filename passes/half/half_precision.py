"""Numbers of two bytes where the target computes with them, and of four where it does not or where they would not fit.

    y = MatMul(x, W)     ->     h = Cast(x, float16); m = MatMul(h, W in float16); y = Cast(m, float)

The interface keeps its types. A value that several nodes read is cast once. Nodes that cost no time to speak of stay in
float32 where that saves casts, and wherever no product or convolution stands among them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import onnx_ir as ir

from passes.editing.constants import constant
from passes.editing.edits import Edits, named
from passes.editing.nesting import subgraphs
from passes.editing.refusal import Refusal
from passes.half.half_conversion import Converter
from passes.half.halved_ranges import fits, is_float

# Why an operator keeps float32 on every target.
KEPT = {
    **dict.fromkeys(("CumSum", "Exp", "Pow", "ReduceL2", "ReduceLogSumExp", "ReduceProd", "ReduceSum",
                     "ReduceSumSquare"), "its results may leave the range"),
    **dict.fromkeys(("ConstantOfShape", "EyeLike", "Range"), "an attribute or a count decides its type"),
    **dict.fromkeys(("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform",
                     "RandomUniformLike"), "it draws other numbers in another type"),
    **dict.fromkeys(("DequantizeLinear", "DynamicQuantizeLinear", "QuantizeLinear", "Resize", "Upsample"),
                    "its scales are float32"),
}  # fmt: skip
# What the time goes into: these are worth a cast on either side.
HEAVY = frozenset({
    "Attention", "Conv", "ConvTranspose", "Einsum", "GRU", "Gemm", "GroupQueryAttention", "LSTM", "MatMul",
    "MultiHeadAttention", "RNN",
})  # fmt: skip
STATISTICS = slice(1, 3)  # outputs of a norm: mean and deviation. A sum that goes along is the fourth


@dataclass
class HalfPrecision(Edits, ir.passes.InPlacePass):
    """`allows` says of a node whether its target has a kernel for it in `dtype`.

    A constant stays float32, and with it the node that reads it, where a number in it overflows or where nothing of it
    is left but zeros. What is computed from one that overflows, a mask of -3.4e38 say, is limited to half of the range
    before it is cast, so that a sum with it stays finite: an infinity makes NaN of rows that are masked whole.
    Whole numbers that become floats stay float32, for float16 counts to 2048. Nodes that hold graphs stay as they are,
    and what those graphs read is float32.
    """

    dtype: ir.DataType
    allows: Callable[[ir.Node], bool]
    refusals: list[Refusal] = field(default_factory=list, init=False)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        self.refusals = []
        chosen = self._chosen(model.graph)[: self.limit]
        self.edited = [named(node) for node in chosen]
        Converter(model, self.dtype, set(chosen)).convert()
        return ir.passes.PassResult(model, modified=bool(chosen))

    def _chosen(self, graph: ir.Graph) -> list[ir.Node]:
        possible = _worth_it({node for node in graph if _has_floats(node) and self._may_be_half(node)})
        light = [node for node in graph if node in possible and node.op_type not in HEAVY]
        changed = True
        while changed:  # each turn leaves fewer casts, so that it comes to an end
            changed = False
            for node in light:
                if node in possible and _casts(node, possible - {node}) < _casts(node, possible):
                    possible.discard(node)
                    changed = True
        return [node for node in graph if node in possible]

    def _may_be_half(self, node: ir.Node) -> bool:
        reason = self._objection(node)
        if reason:
            self.refusals.append(Refusal.of(node, reason))
        return not reason

    def _objection(self, node: ir.Node) -> str:
        if any(True for _ in subgraphs(node)):
            return "it holds graphs"
        if node.op_type in KEPT:
            return KEPT[node.op_type]
        if node.op_type == "Cast" and not _casts_floats(node):
            return "whole numbers are counted further in float32"
        if node.op_type.endswith("Normalization") and any(output.name for output in node.outputs[STATISTICS]):
            return "its statistics are float32"
        broken = next((value for value in node.inputs if not fits(value, self.dtype)), None)
        if broken is not None:
            return f"the constant '{broken.name}' does not fit {self.dtype}"
        return "" if self.allows(node) else f"the target has no kernel for it in {self.dtype}"


def _has_floats(node: ir.Node) -> bool:
    return any(is_float(value) for value in (*node.inputs, *node.outputs))


def _casts_floats(node: ir.Node) -> bool:
    source = node.inputs[0].dtype if node.inputs[0] is not None else None
    return source is not None and (source.is_floating_point() or source == ir.DataType.BOOL)


def _worth_it(nodes: set[ir.Node]) -> set[ir.Node]:
    """Of what hangs together by values of floats, the parts in which something takes time."""
    found, left = set[ir.Node](), set(nodes)
    while left:
        part, border = set[ir.Node](), [left.pop()]
        while border:
            node = border.pop()
            part.add(node)
            beside = {one for one in _neighbours(node) if one in left}
            left -= beside
            border.extend(beside)
        if any(node.op_type in HEAVY for node in part):
            found |= part
    return found


def _neighbours(node: ir.Node) -> list[ir.Node]:
    makers = [value.producer() for value in node.inputs if value is not None and is_float(value)]
    readers = [reader for value in node.outputs if is_float(value) for reader in value.consumers()]
    return [*(one for one in makers if one is not None), *readers]


def _casts(node: ir.Node, half: set[ir.Node]) -> int:
    """How many casts the values around a node need: one for each type that readers want and the maker does not give."""
    around = {value for value in (*node.inputs, *node.outputs) if is_float(value) and constant(value) is None}
    return sum(_casts_of(value, half) for value in around if value is not None)


def _casts_of(value: ir.Value, half: set[ir.Node]) -> int:
    made = value.producer() in half
    wanted = {reader in half for reader in value.consumers()} | ({False} if value.is_graph_output() else set())
    return len(wanted - {made})
