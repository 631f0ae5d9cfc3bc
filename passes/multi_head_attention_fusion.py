"""Attention without a cache is MultiHeadAttention: ONNX Runtime's own operator for encoders.

    y = attention(split(q), split(k), split(v), mask)  ->  y = MultiHeadAttention(q, k, v, mask)

q, k, v and y are [batch, sequence, heads * size]. Without a mask the CPU goes over the scores in tiles and never stores
them. Keys and values that come as heads already, as a cache of an encoder does, keep the written-out form.
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md, com.microsoft.MultiHeadAttention
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from passes import attention
from passes.attention import HEADS_FIRST, Attention, Heads
from passes.building import Builder
from passes.fusion import CONTRIB, Fusion
from passes.heads import added, hand_over, joined, known
from passes.local import Refused
from passes.masks import hides_nothing
from passes.matching import made_by, permutation, sizes


@dataclass
class MultiHeadAttentionFusion(Fusion[Attention]):
    """Turn each attention whose heads were split off projections into one MultiHeadAttention."""

    operator, domain = "MultiHeadAttention", CONTRIB

    def find(self, node: ir.Node) -> Attention | None:
        return attention.find(node)

    def fuse(self, node: ir.Node, found: Attention, build: Builder) -> None:
        if reason := _objection(found):
            raise Refused(reason)
        inputs = [*(joined(one, build) for one in (found.q, found.k, found.v)), None, None, _bias(found, build)]
        attributes = {"num_heads": known(found.q).count, "scale": found.scale}
        (y,) = build.node("MultiHeadAttention", inputs, attributes, domain=CONTRIB)
        hand_over(found, y, build)


def _objection(found: Attention) -> str:
    q, k, v = Heads.of(found.q), Heads.of(found.k), Heads.of(found.v)
    if q is None or k is None or v is None:
        return "its heads are not known before it runs"
    if not q == k == v:
        return f"queries {q}, keys {k} and values {v} differ, and the operator has one kind of heads"
    if found.softcap:
        return "its scores are capped, which the operator does not do"
    if not (_is_split(found.k) and _is_split(found.v)):
        return "its keys and values come as heads, and joining them would copy them"
    unknown = next((mask for mask in found.masks if sizes(mask, 4) is None), None)
    if unknown is not None:
        return f"its mask '{unknown.name}' is not known to be [batch, heads, sequence, total]"
    return ""


def _is_split(value: ir.Value) -> bool:
    node = made_by(value, "Transpose", "RotaryEmbedding")
    if node is not None and node.op_type == "RotaryEmbedding" and node.inputs[0] is not None:
        return _is_split(node.inputs[0])
    return node is not None and permutation(node) == HEADS_FIRST


def _bias(found: Attention, build: Builder) -> ir.Value | None:
    """Masks that hide something. The operator repeats them over batch and heads, over queries they are spread here."""
    masks = [mask for mask in found.masks if not hides_nothing(mask)]
    total = added(found, masks, build)
    if total is None or not all(shape[2] == 1 for mask in masks if (shape := sizes(mask, 4))):
        return total
    queries = build.shared("Shape", [found.q], {"start": 2, "end": 3})
    one = build.integers([1])
    return build.shared("Expand", [total, build.shared("Concat", [one, one, queries, one], {"axis": 0})])
