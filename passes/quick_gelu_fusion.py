"""A value times its own sigmoid is one operator of ONNX Runtime.

    y = x * Sigmoid(alpha x)  ->  y = QuickGelu<alpha>(x)          alpha 1 is SiLU, 1.702 the GELU of CLIP

https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md, com.microsoft.QuickGelu
"""

from __future__ import annotations

import onnx_ir as ir

from passes.editing.building import Builder
from passes.editing.replacing import hand_over
from passes.formulas.matching import by_scalar, made_by, origin
from passes.fusion import CONTRIB, Fusion
from passes.local import require

TYPES = {ir.DataType.FLOAT, ir.DataType.FLOAT16}


class QuickGeluFusion(Fusion[tuple[ir.Value, float]]):
    """Turn each x * Sigmoid(alpha x) into one QuickGelu."""

    operator, domain = "QuickGelu", CONTRIB

    def find(self, node: ir.Node) -> tuple[ir.Value, float] | None:
        if (node.domain, node.op_type) != ("", "Mul"):
            return None
        pairs = ((x, _alpha(sigmoid, x)) for x, sigmoid in (node.inputs, node.inputs[::-1]))
        return next(((x, alpha) for x, alpha in pairs if x is not None and alpha is not None), None)

    def near(self, node: ir.Node) -> str:
        pairs = (node.inputs, node.inputs[::-1]) if (node.domain, node.op_type) == ("", "Mul") else ()
        for x, value in pairs:
            scaled = _scaled(value)
            if scaled is not None and x is not None:
                return f"its Sigmoid is of '{scaled[0].name}', scaled, and not of '{x.name}'"
        return ""

    def fuse(self, node: ir.Node, found: tuple[ir.Value, float], build: Builder) -> None:
        x, alpha = found
        require(x.dtype in TYPES, f"its type {x.dtype} has no QuickGelu on every provider")
        (y,) = build.node("QuickGelu", [x], {"alpha": alpha}, domain=CONTRIB)
        hand_over(node.outputs[0], y, build.names)


def _alpha(value: ir.Value | None, x: ir.Value | None) -> float | None:
    """alpha of Sigmoid(alpha x) for this very x."""
    sigmoid = made_by(value, "Sigmoid")
    inner = sigmoid.inputs[0] if sigmoid is not None else None
    if inner is None or x is None:
        return None
    if origin(inner) is origin(x):
        return 1.0
    scaled = _scaled(value)
    return scaled[1] if scaled is not None and origin(scaled[0]) is origin(x) else None


def _scaled(value: ir.Value | None) -> tuple[ir.Value, float] | None:
    """z and alpha of Sigmoid(alpha z); without a factor it is a gate, which is another formula."""
    sigmoid = made_by(value, "Sigmoid")
    return by_scalar(made_by(sigmoid.inputs[0], "Mul")) if sigmoid is not None else None
