"""Biases of queries, keys and values are added by the attention that reads them.

    y = MultiHeadAttention(q + bq, k + bk, v + bv)  ->  y = MultiHeadAttention(q, k, v, [bq | bk | bv])

Where one of the three has none, as keys of Whisper do not, zeros stand for it. The products stay products of one weight
each, which is what a weight that is to be rounded needs; ONNX Runtime's Attention would take them in.
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md, com.microsoft.MultiHeadAttention
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from passes.editing.building import Builder
from passes.editing.constants import constant
from passes.editing.replacing import hand_over
from passes.formulas.biases import Biased, biased, near
from passes.formulas.matching import origin, sizes
from passes.fusion import CONTRIB, Fusion
from passes.local import Refused, require

JOINED = 3  # axes of [batch, sequence, heads * size]; keys and values as heads have four
BIAS = 3  # the input


@dataclass
class AttentionBiasFusion(Fusion[list[Biased | None]]):
    """Give each MultiHeadAttention the constant rows that were added to what it reads, two of them or all three.

    Refused where keys and values come as heads of an encoder, where one is packed with another, and where the
    attention has a bias already.
    """

    operator, domain = "MultiHeadAttention", CONTRIB

    def find(self, node: ir.Node) -> list[Biased | None] | None:
        if (node.domain, node.op_type) != (CONTRIB, "MultiHeadAttention"):
            return None
        found = [biased(value) for value in node.inputs[:BIAS]]
        return found if any(found) else None

    def near(self, node: ir.Node) -> str:
        given = node.inputs[:BIAS] if (node.domain, node.op_type) == (CONTRIB, "MultiHeadAttention") else ()
        return next(filter(None, map(near, given)), "")

    def fuse(self, node: ir.Node, found: list[Biased | None], build: Builder) -> None:
        given = [*node.inputs, None][BIAS]
        require(given is None, f"it adds '{given.name if given else ''}' already")
        inputs = [
            one.x if one else value and origin(value) for one, value in zip(found, node.inputs[:BIAS], strict=True)
        ]
        shapes = [sizes(value, JOINED) for value in inputs]
        require(len(found) == BIAS and None not in shapes, "its keys and values do not come joined, each alone")
        require(sum(one is not None for one in found) > 1, "one of the three has a bias, and zeros would be added")
        rows = [_row(one, shape[-1] if shape else None) for one, shape in zip(found, shapes, strict=True)]
        known = next(one for one in found if one is not None).bias
        together = ir.Tensor(np.concatenate([_zeros(row, known) if isinstance(row, int) else row for row in rows]))
        added = build.initializer(together, f"{node.outputs[0].name}_bias")
        made = build.node(
            "MultiHeadAttention",
            [*inputs, added, *node.inputs[BIAS + 1 :]],
            node.attributes,
            domain=CONTRIB,
            outputs=len(node.outputs),
        )
        for old, new in zip(node.outputs, made, strict=True):
            hand_over(old, new, build.names)


def _row(found: Biased | None, width: Any) -> npt.NDArray[Any] | int:
    """The bias, or how many zeros stand for it."""
    tensor = constant(found.bias) if found is not None else None
    if tensor is not None:
        return tensor.numpy()
    if not isinstance(width, int):
        raise Refused("how wide what has no bias is, is not known before it runs")
    return width


def _zeros(width: int, like: ir.Value) -> npt.NDArray[Any]:
    assert like.dtype is not None, "a constant has a type"
    return np.zeros(width, like.dtype.numpy())
