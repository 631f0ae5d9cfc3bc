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
from passes.attention import Attention, Heads
from passes.building import Builder
from passes.fusion import CONTRIB, Fusion
from passes.heads import added, hand_over, hiding, is_split, joined, keys, keys_are_split, known, spread
from passes.local import Refused
from passes.matching import sizes


@dataclass
class MultiHeadAttentionFusion(Fusion[Attention]):
    """Turn each attention whose heads were split off projections into one MultiHeadAttention."""

    operator, domain = "MultiHeadAttention", CONTRIB

    def find(self, node: ir.Node) -> Attention | None:
        return attention.find(node)

    def fuse(self, node: ir.Node, found: Attention, build: Builder) -> None:
        if reason := _objection(found):
            raise Refused(reason)
        q, k, v = (joined(one, build) for one in (found.q, keys(found, build), found.v))
        masks = hiding(found)
        bias = spread(added(found, masks, build), found, masks, build, q, axis=1)
        attributes = {"num_heads": known(found.q).count, "scale": found.scale}
        (y,) = build.node("MultiHeadAttention", [q, k, v, None, None, bias], attributes, domain=CONTRIB)
        hand_over(found, y, build)


def _objection(found: Attention) -> str:
    q, k, v = Heads.of(found.q), found.key_heads, Heads.of(found.v)
    if q is None or k is None or v is None:
        return "its heads are not known before it runs"
    if not q == k == v:
        return f"queries {q}, keys {k} and values {v} differ, and the operator has one kind of heads"
    if found.softcap:
        return "its scores are capped, which the operator does not do"
    if not (keys_are_split(found) and is_split(found.v)):
        return "its keys and values come as heads, and joining them would copy them"
    unknown = next((mask for mask in found.every_mask if sizes(mask, 4) is None), None)
    if unknown is not None:
        return f"its mask '{unknown.name}' is not known to be [batch, heads, sequence, total]"
    return ""
