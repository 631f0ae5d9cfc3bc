"""Attention whose queries have keys of their own is MultiHeadAttention: ONNX Runtime's own operator for encoders, and
for decoders beside them.

    y = attention(split(q), split(k), split(v), mask)        ->  y = MultiHeadAttention(q, k, v, mask)
    k = Concat(past_k, split(new_k)); v alike; y = attention(split(q), k, v, mask)
                                                             ->  y, k, v = MultiHeadAttention(q, new_k, new_v, mask,
                                                                                              past_k, past_v)
    y = attention(split(q), k, v, mask)                      ->  y = MultiHeadAttention(q, k, v, mask)

q, y and what is split are [batch, sequence, heads * size]; k and v of the last form are [batch, heads, total, size], as
an encoder leaves them to its decoder. Any number of rows may meet a cache that is filled. Without a mask the CPU goes
over the scores in tiles and never stores them.
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md, com.microsoft.MultiHeadAttention
"""

from __future__ import annotations

import onnx_ir as ir

from passes.editing.building import Builder
from passes.editing.replacing import hand_over
from passes.formulas import attention
from passes.formulas.attention import Attention, Heads
from passes.formulas.cache import caches
from passes.formulas.heads import added, deliver, hiding, is_split, joined, keys, keys_are_split, known, spread
from passes.formulas.matching import sizes
from passes.fusion import CONTRIB, Fusion
from passes.local import Refused


class MultiHeadAttentionFusion(Fusion[Attention]):
    """Turn each attention with as many heads of keys as of queries into one MultiHeadAttention.

    Refused where groups share keys (GroupQueryAttention is theirs), where keys and queries differ in size, or values
    too that come as heads, where scores are capped, and where a mask is not seen to have the axes of the scores.
    """

    operator, domain = "MultiHeadAttention", CONTRIB

    def find(self, node: ir.Node) -> Attention | None:
        return attention.find(node)

    def near(self, node: ir.Node) -> str:
        return attention.near(node)

    def fuse(self, node: ir.Node, found: Attention, build: Builder) -> None:
        del node
        if reason := _objection(found):
            raise Refused(reason)
        grown, masks = caches(found) or (), hiding(found)
        q, (k, v) = joined(found.q, build), _keys_and_values(found, build)
        bias = spread(added(found, masks, build), found, masks, build, q, axis=1)
        attributes = {"num_heads": known(found.q).count, "scale": found.scale}
        inputs = [q, k, v, None, None, bias, *(cache.past for cache in grown)]
        y, *present = build.node("MultiHeadAttention", inputs, attributes, domain=CONTRIB, outputs=1 + len(grown))
        for cache, value in zip(grown, present, strict=True):
            hand_over(cache.joined, value, build.names)
        deliver(found, y, build)


def _keys_and_values(found: Attention, build: Builder) -> tuple[ir.Value, ir.Value]:
    """What is new of them beside a cache; joined where both were split, and else as heads, which costs no copy."""
    if grown := caches(found):
        key, value = (joined(cache.new, build) for cache in grown)
        return key, value
    if _are_split(found):
        return joined(keys(found, build), build), joined(found.v, build)
    return keys(found, build), found.v


def _are_split(found: Attention) -> bool:
    return keys_are_split(found) and is_split(found.v)


def _objection(found: Attention) -> str:
    q, k, v = Heads.of(found.q), found.key_heads, Heads.of(found.v)
    if q is None or k is None or v is None:
        return "its heads are not known before it runs"
    if q != k or k.count != v.count:
        return f"queries {q}, keys {k} and values {v} differ, and the operator has one kind of heads"
    if v.size != k.size and (caches(found) or not _are_split(found)):
        return f"keys {k} and values {v} come as heads, and the operator has one kind of them"
    if found.softcap:
        return "its scores are capped, which the operator does not do"
    unknown = next((mask for mask in found.every_mask if sizes(mask, 4) is None), None)
    if unknown is not None:
        return f"its mask '{unknown.name}' is not known to be [batch, heads, sequence, total]"
    return ""
