"""Attention over a cache is GroupQueryAttention: ONNX Runtime's own operator for decoders, tiled for long prompts.

    k = Concat(past_k, new_k); v = Concat(past_v, new_v); y = attention(q, repeat(k), repeat(v), mask)
 -> y, k, v = GroupQueryAttention(q, new_k, new_v, past_k, past_v, lengths, total, mask)

Scores, repetition and the [heads, sequence, total] softmax are never stored. The mask goes along as attention_bias, so
rows may be padded left or right and windows slide. Two things change, both outside of what a decoder of text
promises: padded positions compute other garbage, and several rows can prefill together only on an empty cache (the CPU
kernel's rule: "batch_size must be 1 when sequence_length > 1 and past context is given"). Graphs that do not take the
mask of such a decoder promise otherwise, and are left alone.

https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md, com.microsoft.GroupQueryAttention
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir

from passes.editing.building import Builder
from passes.editing.replacing import hand_over
from passes.formulas import attention
from passes.formulas.attention import Attention, Heads
from passes.formulas.cache import Cache, caches
from passes.formulas.heads import added, deliver, joined, known
from passes.formulas.masks import is_causal
from passes.formulas.matching import sizes
from passes.fusion import CONTRIB, Fusion
from passes.local import Refused

TEXT_MASK = "attention_mask"  # the input by which a decoder of text knows its padding


class _Lengths:
    """How long each row is: computed once for all layers whose axes have the same names."""

    def __init__(self) -> None:
        self._known: dict[tuple[str | int | None, ...], tuple[ir.Value, ir.Value]] = {}

    def of(self, key: Cache, flat: ir.Value, build: Builder) -> tuple[ir.Value, ir.Value]:
        axes = (*(sizes(key.past, 4) or (None,)), *(sizes(key.new, 4) or (None,)))
        names = tuple(one.value if isinstance(one, ir.SymbolicDim) else one for one in axes)
        if None in names:
            return _lengths(key.past, flat, build)
        if names not in self._known:
            self._known[names] = _lengths(key.past, flat, build)
        return self._known[names]


@dataclass
class GroupQueryAttentionFusion(Fusion[Attention]):
    """Turn each attention whose keys and values grow a cache into one GroupQueryAttention."""

    operator, domain = "GroupQueryAttention", CONTRIB

    rows: _Lengths = field(default_factory=_Lengths, init=False, repr=False)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        self.refusals, self.edited, self.rows = [], [], _Lengths()
        text = any(value.name == TEXT_MASK for value in model.graph.inputs)
        return super().call(model) if text else ir.passes.PassResult(model, False)

    def find(self, node: ir.Node) -> Attention | None:
        return attention.find(node)

    def fuse(self, node: ir.Node, found: Attention, build: Builder) -> None:
        del node
        grown = caches(found)
        if grown is None:
            raise Refused("its keys and values grow no cache")
        key, value = grown
        if reason := _objection(found, key, value):
            raise Refused(reason)
        _fuse(found, key, value, build, self.rows)


def _objection(found: Attention, key: Cache, value: Cache) -> str:
    """Why this attention stays as it is; empty where nothing speaks against it."""
    q, k, v = Heads.of(found.q), Heads.of(key.new), Heads.of(value.new)
    if q is None or k is None or v is None:
        return "its heads are not known before it runs"
    if k != v or q.size != k.size or q.count % k.count:
        return f"queries {q}, keys {k} and values {v} do not fit into groups of one size"
    masks = [sizes(mask, 4) for mask in found.every_mask]
    if None in masks or (masks and any(all(one[axis] == 1 for one in masks if one) for axis in (2, 3))):
        return f"its mask '{found.every_mask[0].name}' is not known to be [batch, heads, sequence, total]"
    return ""


def _fuse(found: Attention, key: Cache, value: Cache, build: Builder, rows: _Lengths) -> None:
    q, k, v = (joined(one, build) for one in (found.q, key.new, value.new))
    lengths, total = rows.of(key, k, build)
    y, present_key, present_value = build.node(
        "GroupQueryAttention",
        [q, k, v, key.past, value.past, lengths, total, None, None, None, added(found, found.every_mask, build)],
        _attributes(found, key),
        domain=CONTRIB,
        outputs=3,
    )
    for old, new in ((key.joined, present_key), (value.joined, present_value)):
        hand_over(old, new, build.names)
    deliver(found, y, build)


def _attributes(found: Attention, key: Cache) -> dict[str, Any]:
    """`causal` hides the future without reading the mask there; for a mask that may show it, the mask decides alone."""
    heads, groups = known(found.q).count, known(key.new).count
    hides_future = any(map(is_causal, found.masks))
    attributes = {"num_heads": heads, "kv_num_heads": groups, "scale": found.scale, "softcap": found.softcap}
    return attributes | ({} if hides_future else {"causal": 0})


def _lengths(past: ir.Value, new: ir.Value, build: Builder) -> tuple[ir.Value, ir.Value]:
    """seqlens_k [batch], the last position of each row, and the total length."""
    cached = build.one("Cast", [build.length(past, 2)], {"to": ir.DataType.INT32})
    fresh = build.one("Cast", [build.length(new, 1)], {"to": ir.DataType.INT32})
    total = build.one("Add", [cached, fresh])
    last = build.one("Sub", [total, build.integers([1], ir.DataType.INT32)])
    lengths = build.one("Expand", [last, build.length(new, 0)])
    return lengths, build.one("Squeeze", [total])
