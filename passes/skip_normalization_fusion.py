"""A residual sum and the norm that follows it are one sweep over memory.

    s = x + skip; y = RMSNormalization(s, w)    -> y, s = SkipSimplifiedLayerNormalization(x, skip, w)
    s = x + skip; y = LayerNormalization(s, w, b) -> y, s = SkipLayerNormalization(x, skip, w, b)

A bias that one of the two was given just before goes along: skip = Add(z, bias). The sum stays readable: it is the
fourth output. ONNX Runtime's own optimizer gives up where the sum is read again,
which is everywhere in a model that normalizes first.
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md, com.microsoft.SkipLayerNormalization
"""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx_ir as ir

from passes.building import Builder
from passes.constants import constant
from passes.dead_node_elimination import DeadNodeElimination
from passes.matching import made_by, normalized_axis, same
from passes.refusal import Refusal

CONTRIB = "com.microsoft"
FUSED = {
    "RMSNormalization": "SkipSimplifiedLayerNormalization",
    "LayerNormalization": "SkipLayerNormalization",
}
DEFAULT_EPSILON = 1e-5


@dataclass
class SkipNormalizationFusion(ir.passes.InPlacePass):
    """Join each norm with the sum of two equal shapes before it."""

    refusals: list[Refusal] = field(default_factory=list, init=False)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        self.refusals = []
        build = Builder(model.graph)
        norms = [node for node in model.graph if node.domain == "" and node.op_type in FUSED]
        if not any([self._try_to_fuse(node, build) for node in norms]):
            return ir.passes.PassResult(model, False)
        model.opset_imports[CONTRIB] = 1
        DeadNodeElimination()(model)
        return ir.passes.PassResult(model, True)

    def _try_to_fuse(self, norm: ir.Node, build: Builder) -> bool:
        total = norm.inputs[0].producer() if norm.inputs[0] is not None else None
        if total is None or total.domain or total.op_type != "Add" or total.graph is not norm.graph:
            return False
        reason = _objection(norm, total)
        if reason:
            self.refusals.append(Refusal.of(norm, reason))
            return False
        build.before(total)
        epsilon = norm.attributes.get_float("epsilon", DEFAULT_EPSILON)
        terms, bias = _split_bias(total)
        weights = [*norm.inputs[1:], None][: 1 if norm.op_type == "RMSNormalization" else 2]
        inputs = [*terms, *weights, *([bias] if bias else [])]
        outputs = build.node(FUSED[norm.op_type], inputs, {"epsilon": epsilon}, domain=CONTRIB, outputs=4)
        y, mean, inverse, again = outputs
        mean.name = inverse.name = ""
        for node, new in ((norm, y), (total, again)):
            build.hand_over(node.outputs[0], new)
            assert node.graph is not None  # both stand in this one
            node.graph.remove(node, safe=True)
        return True


def _split_bias(total: ir.Node) -> tuple[list[ir.Value | None], ir.Value | None]:
    """The two terms of a sum, and the constant vector that one of them was given by an Add nobody else reads."""
    terms = list(total.inputs)
    for at, term in enumerate(terms):
        node = made_by(term, "Add")
        if (
            node is None
            or term is None
            or term is not node.outputs[0]
            or len(term.uses()) != 1
            or term.is_graph_output()
        ):
            continue
        for side in (0, 1):
            bias, other = node.inputs[side], node.inputs[1 - side]
            if other is not None and bias is not None and constant(bias) is not None and _is_row(bias, other):
                terms[at] = other
                return terms, bias
    return terms, None


def _is_row(bias: ir.Value, other: ir.Value) -> bool:
    """A vector as long as the rows it is added to."""
    if bias.shape is None or other.shape is None or len(bias.shape) != 1 or len(other.shape) < 2:
        return False
    return bool(bias.shape[0] == other.shape[-1])


def _objection(norm: ir.Node, total: ir.Node) -> str:
    x, skip = total.inputs
    if x is None or skip is None or x.shape is None or skip.shape is None:
        return "the shapes that are added are not known"
    rank = len(x.shape)
    if rank not in {2, 3} or not same(tuple(x.shape), tuple(skip.shape)):
        return f"{x.shape} + {skip.shape}: the operator adds two equal shapes of rank 2 or 3"
    if normalized_axis(norm.attributes.get_int("axis", -1), rank) != rank - 1:
        return "it normalizes over more than the last axis"
    if any(constant(value) is None for value in norm.inputs[1:] if value is not None):
        return "its weight is no constant"
    if any(output.uses() or output.is_graph_output() for output in norm.outputs[1:]):
        return "its statistics are read"
    return ""
