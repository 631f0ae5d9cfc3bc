"""Attention is one operator of the standard, from opset 23 on.

    k = Concat(past_k, split(new_k)); v alike; y = attention(split(q), repeat(k), repeat(v), mask)
 -> y, k, v = Attention(q, new_k, new_v, mask, past_k, past_v)      y and all new: [batch, sequence, heads * size]

    y = attention(q, repeat(k), repeat(v), mask)  ->  y = Attention(q, k, v, mask)      where heads come apart already

Scores are capped, then masked: engines differ in that order, for the standard's text once said it the other way round,
so what is both stays written out. A row whose keys are all hidden is the mean of the values when it is written out with
finite numbers, and NaN with minus infinity; the operator has zeros for the latter, and in ONNX Runtime for a row of the
lowest number of its type too. Masks are therefore held above that number, and where minus infinity is seen in how a
mask is made it stays written out. Of a mask that the caller gives, nothing is seen: there such a row is the mean.

https://github.com/onnx/onnx/blob/main/docs/Operators.md#Attention
"""

from __future__ import annotations

import math
from typing import Any

import onnx_ir as ir

from passes.editing.building import Builder
from passes.editing.replacing import hand_over
from passes.formulas import attention
from passes.formulas.attention import Attention, Heads
from passes.formulas.cache import caches
from passes.formulas.heads import added, deliver, hiding, is_split, joined, keys, known, spread
from passes.formulas.masks import hides_with_infinity, stays_above
from passes.fusion import Fusion
from passes.local import Refused


class AttentionFusion(Fusion[Attention]):
    """Turn each attention into one Attention, with its cache and without the nodes that split and join heads."""

    operator, first_opset = "Attention", 23

    def find(self, node: ir.Node) -> Attention | None:
        found = attention.find(node)
        return None if found is None or (node.op_type == self.operator and not _gains(found)) else found

    def near(self, node: ir.Node) -> str:
        return attention.near(node)

    def fuse(self, node: ir.Node, found: Attention, build: Builder) -> None:
        del node
        if reason := _objection(found):
            raise Refused(reason)
        grown = caches(found) or ()
        k, v = (cache.new for cache in grown) if grown else (keys(found, build), found.v)
        inputs, apart = [found.q, k, v], not _are_split(found)
        if not apart:
            inputs = [joined(one, build) for one in inputs]
        mask = _mask(found, build, inputs[0], axis=2 if apart else 1)
        more = [mask, *(cache.past for cache in grown)] if grown or mask is not None else []
        outputs = 1 + len(grown)
        y, *present = build.node("Attention", [*inputs, *more], _attributes(found, apart=apart), outputs=outputs)
        for cache, value in zip(grown, present, strict=True):
            hand_over(cache.joined, value, build.names)
        if apart:
            hand_over(found.out, y, build.names)
        else:
            deliver(found, y, build)


def _gains(found: Attention) -> bool:
    """Whether an operator that is there already would be without nodes around it."""
    repeated = any(attention.unrepeated(one) is not one for one in found.node.inputs[1:3] if one is not None)
    return repeated or caches(found) is not None or _are_split(found)


def _are_split(found: Attention) -> bool:
    """Whether queries and what is new of keys and values were split off projections."""
    new = [cache.new for cache in caches(found) or ()] or [*([] if found.turned else [found.k]), found.v]
    return all(map(is_split, (found.q, *new)))


def _objection(found: Attention) -> str:
    q, k, v = Heads.of(found.q), found.key_heads, Heads.of(found.v)
    if q is None or k is None or v is None:
        return "its heads are not known before it runs"
    if k.count != v.count or q.size != k.size or q.count % k.count:
        return f"queries {q}, keys {k} and values {v} do not fit into groups"
    types = {one.dtype for one in (found.q, found.k, found.v)}
    if len(types) > 1:
        return f"its queries, keys and values are {', '.join(sorted(map(str, types)))}, and engines take one type"
    if found.scale <= 0:
        return f"its scale is {found.scale:g}, and the operator takes the root of it"
    return _mask_objection(found, q)


def _mask_objection(found: Attention, q: Heads) -> str:
    if found.softcap and found.every_mask:
        return "its scores are capped and masked, and engines differ in which of the two comes first"
    if math.isinf(found.low) or any(map(hides_with_infinity, found.masks)):
        return "its mask hides with minus infinity: a row that sees nothing is NaN, and of the operator it is not"
    unfit = next((mask for mask in found.every_mask if not _fits(mask, q)), None)
    if unfit is not None:
        return f"its mask '{unfit.name}' of shape {unfit.shape} is not known to be [batch, heads, sequence, total]"
    return ""


def _fits(mask: ir.Value, q: Heads) -> bool:
    """Whether its last axes are those of the scores, and it does not make more heads of them."""
    shape = mask.shape
    if shape is None or not 2 <= len(shape) <= 4 or shape[-1] == 1:
        return False
    return len(shape) == 2 or shape[-3] in (1, q.count)


def _mask(found: Attention, build: Builder, q: ir.Value, axis: int) -> ir.Value | None:
    """What hides something; of an operator, as it is."""
    masks, dtype = hiding(found), found.q.dtype or ir.DataType.FLOAT
    if found.node.op_type == "Attention":
        return masks[0] if masks else None
    total, numbers = added(found, masks, build), [mask for mask in masks if mask.dtype != ir.DataType.BOOL]
    if total is not None and not all(stays_above(mask, float(dtype.min) / len(masks)) for mask in numbers):
        total = build.shared("Max", [total, build.number(dtype.min / 2, dtype)])
    return spread(total, found, masks, build, q, axis)


def _attributes(found: Attention, *, apart: bool) -> dict[str, Any]:
    attributes: dict[str, Any] = {"scale": found.scale}
    if not apart:
        attributes |= {"q_num_heads": known(found.q).count, "kv_num_heads": known(found.v).count}
    if found.softcap:
        attributes["softcap"] = found.softcap
    if found.precision is not None and found.precision != found.q.dtype:
        attributes["softmax_precision"] = found.precision
    return attributes
