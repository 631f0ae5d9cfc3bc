"""A bias before a GELU goes along with it: operators of ONNX Runtime's own.

    y = Gelu(x + b)                          ->  y = BiasGelu(x, b)
    y = Gelu<approximate = "tanh">(x + b)    ->  y = FastGelu(x, b)

https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md, com.microsoft.BiasGelu, FastGelu
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from passes.editing.building import Builder
from passes.editing.replacing import hand_over
from passes.formulas.biases import Biased, biased, near
from passes.fusion import CONTRIB, Fusion
from passes.local import require

KINDS = {"none": "BiasGelu", "tanh": "FastGelu"}
TYPES = {ir.DataType.FLOAT, ir.DataType.FLOAT16}


@dataclass
class BiasGeluFusion(Fusion[Biased]):
    """Turn each Gelu of a sum with a constant row into one operator.

    The sum has no other reader. Refused in types that not every provider has the operators in.
    """

    operator, domain = "BiasGelu", CONTRIB

    def find(self, node: ir.Node) -> Biased | None:
        return biased(node.inputs[0]) if (node.domain, node.op_type) == ("", "Gelu") else None

    def near(self, node: ir.Node) -> str:
        return near(node.inputs[0]) if (node.domain, node.op_type) == ("", "Gelu") else ""

    def fuse(self, node: ir.Node, found: Biased, build: Builder) -> None:
        kind = KINDS[node.attributes.get_string("approximate", "none")]
        require(found.x.dtype in TYPES, f"its type {found.x.dtype} has no {kind} on every provider")
        (y,) = build.node(kind, [found.x, found.bias], domain=CONTRIB)
        hand_over(node.outputs[0], y, build.names)
