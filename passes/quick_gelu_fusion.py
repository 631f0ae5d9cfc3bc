"""A value times its own sigmoid is one operator of ONNX Runtime.

    y = x * Sigmoid(alpha x)  ->  y = QuickGelu<alpha>(x)          alpha 1 is SiLU, 1.702 the GELU of CLIP

https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md, com.microsoft.QuickGelu
"""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx_ir as ir

from passes.building import Builder
from passes.dead_node_elimination import DeadNodeElimination
from passes.matching import by_scalar, made_by, origin
from passes.refusal import Refusal

CONTRIB = "com.microsoft"


@dataclass
class QuickGeluFusion(ir.passes.InPlacePass):
    """Turn each x * Sigmoid(alpha x) into one QuickGelu."""

    refusals: list[Refusal] = field(default_factory=list, init=False)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        self.refusals = []
        build = Builder(model.graph)
        products = [node for node in model.graph if node.domain == "" and node.op_type == "Mul"]
        if not any([self._try_to_fuse(node, build) for node in products]):
            return ir.passes.PassResult(model, False)
        model.opset_imports[CONTRIB] = 1
        DeadNodeElimination()(model)
        return ir.passes.PassResult(model, True)

    def _try_to_fuse(self, node: ir.Node, build: Builder) -> bool:
        for at in (0, 1):
            x, alpha = node.inputs[1 - at], _alpha(node.inputs[at], node.inputs[1 - at])
            if x is None or alpha is None:
                continue
            if x.dtype not in {ir.DataType.FLOAT, ir.DataType.FLOAT16}:
                self.refusals.append(Refusal.of(node, f"its type {x.dtype} has no QuickGelu on every provider"))
                return False
            build.before(node)
            (y,) = build.node("QuickGelu", [x], {"alpha": alpha}, domain=CONTRIB)
            build.hand_over(node.outputs[0], y)
            return True
        return False


def _alpha(value: ir.Value | None, x: ir.Value | None) -> float | None:
    """alpha of Sigmoid(alpha x) for this very x."""
    sigmoid = made_by(value, "Sigmoid")
    inner = sigmoid.inputs[0] if sigmoid is not None else None
    if inner is None or x is None:
        return None
    if origin(inner) is origin(x):
        return 1.0
    scaled = by_scalar(made_by(inner, "Mul"))
    return scaled[1] if scaled is not None and origin(scaled[0]) is origin(x) else None
