"""Attention of one layer over a pool of blocks, for the packed tokens of many requests.

PagedAttention, Kwon et al. 2023 (arXiv 2309.06180). On a CPU from standard operators, by the step's plan (`paging.py`):

    ScatterND   writes this call's keys and values into the pool, in place when one buffer is bound as input and output
    Gather      brings the blocks of each request side by side
    Attention   of each request's token, where every request brings one, as in most calls
    If          some bring more: Attention of all their tokens, in tiles, and each token finds its own among both

On CUDA all that is com.microsoft.PagedAttention, which computes in half precision.

A pool of 8 bits holds code = round(value / scale), with a scale for each channel of each head (`cache_scales.py`). On
a CPU what was gathered is cast and not multiplied: the query takes the keys' scales, the output those of the values.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_ir as ir

from compressor.package.attention import CONTRIB, Attention
from compressor.package.paging import Given, Pool, Step, View
from compressor.package.scribe import Scribe

Paged = tuple[ir.Value, list[ir.Value]]  # what the tokens attended to [tokens, 1, heads * size], and the pools written


def attend_on_cpu(
    op: Scribe,
    layer: Attention,
    rows: list[ir.Value],
    pools: list[Pool],
    step: Step,
    dtype: ir.DataType,
) -> Paged:
    """rows: query, key, value [tokens, 1, ...], of the graph's dtype, in which attention computes."""
    query, *new = rows
    written = [
        op("ScatterND", pool.value, step.place, op("Gather", _stored(op, one, pool, dtype), step.written))
        for pool, one in zip(pools, new, strict=True)
    ]
    keys, values = pools
    packed = _scaled(op, _in_a_row(op, query, layer, keys), keys, layer, dtype)  # [tokens, 1, heads * size]

    def attend(queries: ir.Value, view: View) -> ir.Value:
        """queries and result [rows, width, heads * size]"""
        cached = [_brought(op, at, pool, view, dtype) for at, pool in zip(written, pools, strict=True)]
        shape = {"q_num_heads": layer.heads, "kv_num_heads": keys.sizes[0]}
        mask = view.masks[layer.window]
        return op("Attention", queries, *cached, mask, **shape, scale=layer.scale, softcap=layer.softcap)

    def with_tiles() -> list[ir.Value]:
        tiles = attend(op("Gather", _flat(op, packed, layer, keys), step.spread), step.tiles)
        alone = attend(op("Gather", packed, step.last), step.alone)
        both = op("Concat", *(_flat(op, one, layer, values) for one in (tiles, alone)), axis=0)
        return [op("Gather", both, step.chosen)]

    (found,) = op.choose(step.several, with_tiles, lambda: [attend(packed, step.alone)])
    return _scaled(op, found, values, layer, dtype), written


def attend_on_cuda(
    op: Scribe, layer: Attention, rows: list[ir.Value], pools: list[Pool], given: Given, dtype: ir.DataType
) -> Paged:
    """rows as above, of the graph's dtype; the pools are half precision already, or codes."""
    query, *new = rows
    flat = [_flat(op, query, layer, pools[0])]
    flat += [op("Reshape", one, [-1, math.prod(pool.sizes)]) for one, pool in zip(new, pools, strict=True)]
    scales, kinds = _scales_on_cuda(op, pools)
    node = op.node(
        "PagedAttention",
        *(op("Cast", value, to=ir.DataType.FLOAT16) if dtype == ir.DataType.FLOAT else value for value in flat),
        *(pool.value for pool in pools),
        given.cumulative,
        given.past,
        given.table,
        *scales,
        domain=CONTRIB,
        outputs=3,
        num_heads=layer.heads,
        kv_num_heads=pools[0].sizes[0],
        scale=layer.scale,
        softcap=layer.softcap,
        local_window_size=layer.window or -1,
        **kinds,
    )
    output, *written = node.outputs
    attended = op("Unsqueeze", output, [1])
    return op("Cast", attended, to=dtype) if dtype == ir.DataType.FLOAT else attended, written


def _brought(op: Scribe, written: ir.Value, pool: Pool, view: View, dtype: ir.DataType) -> ir.Value:
    """The blocks of each row of a view, side by side: [rows, blocks * block_size, heads * size]."""
    found = op("Reshape", op("Gather", written, view.blocks), [0, -1, math.prod(pool.sizes)])
    return found if pool.value.dtype == dtype else op("Cast", found, to=dtype)


def _stored(op: Scribe, new: ir.Value, pool: Pool, dtype: ir.DataType) -> ir.Value:
    """This call's keys or values as their pool holds them: [tokens, heads, size]."""
    if pool.scale is not None:
        flat = op("Reshape", new, [-1, math.prod(pool.sizes)])
        wide = flat if dtype == ir.DataType.FLOAT else op("Cast", flat, to=ir.DataType.FLOAT)
        scale = op.initializer(f"paged/scale of {pool.value.name}", pool.scale.reshape(-1))
        new = op("QuantizeLinear", wide, scale, axis=1, output_dtype=ir.DataType.INT8)
    elif pool.value.dtype != dtype:
        new = op("Cast", new, to=pool.value.dtype)
    return op("Reshape", new, [-1, *pool.sizes])


def _scaled(op: Scribe, rows: ir.Value, pool: Pool, layer: Attention, dtype: ir.DataType) -> ir.Value:
    """Rows [..., heads * size] times the scale of each channel; several heads of a query share one of the cache."""
    if pool.scale is None:
        return rows
    each = np.repeat(pool.scale, layer.heads // len(pool.scale), axis=0).reshape(-1)
    return op("Mul", rows, op.initializer(f"paged/worth of {pool.value.name}", each.astype(dtype.numpy())))


def _scales_on_cuda(op: Scribe, pools: list[Pool]) -> tuple[list[ir.Value | None], dict[str, Any]]:
    """PagedAttention's inputs from the ninth on (tables, slots, sinks, norms: none; then scales), and what says so."""
    scales = [
        op.initializer(f"paged/scale of {pool.value.name}", pool.scale[:, None])
        for pool in pools
        if pool.scale is not None
    ]
    if not scales:
        return [], {}
    return [*(None,) * 6, *scales], {"k_quant_type": "PER_CHANNEL", "v_quant_type": "PER_CHANNEL"}


def _in_a_row(op: Scribe, query: ir.Value, layer: Attention, pool: Pool) -> ir.Value:
    """[tokens, 1, heads, size], or already as wanted -> [tokens, 1, heads * size]"""
    return op("Reshape", query, [-1, 1, layer.heads * pool.sizes[1]]) if layer.heads_first else query


def _flat(op: Scribe, value: ir.Value, layer: Attention, pool: Pool) -> ir.Value:
    """[..., heads * size] -> [tokens, heads * size]"""
    return op("Reshape", value, [-1, layer.heads * pool.sizes[1]])
