"""A cache that grows: what was there, and what this call adds, joined along the axis of tokens.

    joined = Concat(past, new)        all [batch, groups, tokens, size]

The attention operators join them themselves. Where the mask is computed from what is joined, such as its length, they
cannot: the mask would wait for the operator that waits for the mask.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import onnx_ir as ir

from passes.formulas.attention import Attention
from passes.formulas.matching import made_by, normalized_axis, origin

TOKENS = 2  # the axis


@dataclass(frozen=True)
class Cache:
    """Keys or values of one attention, in their two parts."""

    past: ir.Value
    new: ir.Value
    joined: ir.Value  # [batch, groups, total, size]


def caches(found: Attention) -> tuple[Cache, Cache] | None:
    """Of keys and of values, where both grow and the masks can be computed without them."""
    key, value = (None if found.turned else _growing(one, found.every_mask) for one in (found.k, found.v))
    return None if key is None or value is None else (key, value)


def _growing(value: ir.Value, masks: Iterable[ir.Value]) -> Cache | None:
    concat = made_by(value, "Concat")
    if concat is None or len(concat.inputs) != 2 or normalized_axis(concat.attributes["axis"].as_int(), 4) != TOKENS:
        return None
    past, new = concat.inputs
    if past is None or new is None or _needs(masks, concat):
        return None
    return Cache(origin(past), new, concat.outputs[0])


def _needs(values: Iterable[ir.Value], node: ir.Node) -> bool:
    """Whether one of the values is computed from what the node makes."""
    waiting, seen = [value.producer() for value in values], set[ir.Node]()
    while waiting:
        maker = waiting.pop()
        if maker is node:
            return True
        if maker is not None and maker not in seen:
            seen.add(maker)
            waiting += [value.producer() for value in maker.inputs if value is not None]
    return False
