"""Attention over a pool of blocks, for the packed tokens of many requests.

    pool [num_blocks, block_size, heads, size]   a request's block table names its blocks in order, so position p of it
                                                 lies in block table[p // block_size], slot p % block_size

PagedAttention, Kwon et al. 2023 (arXiv 2309.06180). On a CPU from standard operators: ScatterND writes this call's keys
and values into the pool, in place when an engine binds one buffer to input and output; Gather brings the blocks of each
request side by side; Attention takes a mask for each row, since requests differ in length. An engine's pool begins as
it was found, and a number that is none would survive a weight of zero: so the last token of a call that begins a block
is written into the rest of the block too, until others come there, and where a request has no block its first is read.
On CUDA the three are com.microsoft.PagedAttention, which computes in half precision.

A pool of 8 bits holds code = round(value / scale), with a scale for each channel of each head (`cache_scales.py`). On
a CPU what was gathered is cast and not multiplied: the query takes the keys' scales, the output those of the values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from compressor.package.attention import ALL_TOKENS, CONTRIB, Attention
from compressor.package.scribe import Scribe

LAST = 2**63 - 1  # the end of a slice that has none
TILE = 32  # tokens of a request that attend together


@dataclass(frozen=True)
class Given:
    """What an engine hands to each call, beside tokens and pool: which rows there are, and where their blocks lie."""

    table: ir.Value  # int32 [batch, blocks], -1 where a request has fewer
    cumulative: ir.Value  # int32 [batch + 1] where each request's tokens begin
    past: ir.Value  # int32 [batch] tokens that are in the pool already


@dataclass(frozen=True)
class Pool:
    """One side of a layer's cache: the graph's input, and what a code of each channel is worth, if it holds codes."""

    value: ir.Value  # [num_blocks, block_size, heads, size]
    scale: NDArray[np.float32] | None = None  # [heads, size]

    @property
    def sizes(self) -> tuple[int, int]:
        """Heads and head size."""
        assert self.value.shape is not None
        heads, size = self.value.shape[2], self.value.shape[3]
        assert isinstance(heads, int)  # held by Decoder.of
        assert isinstance(size, int)
        return heads, size


@dataclass(frozen=True)
class Step:
    """What a call computes once for all layers.

    A request's tokens are cut into tiles of one width, each a row of the attention with what lies before it as its
    past: one long prompt among steps of one token would fill up every row to its own length otherwise (eight rows, one
    of them 248 tokens long, of the built-in model on a busy machine: 590 ms without tiles, 254 ms with).
    """

    position: ir.Value  # [tokens] of each token in its request
    place: ir.Value  # [written, 2] block and slot that keys and values go to
    written: ir.Value  # [written] index of the token that goes there; at the end those that fill up their blocks
    last: ir.Value  # [batch] index of each request's last token
    spread: ir.Value  # [tiles, width] index of each tile's tokens; the last of a request is filled up with any
    packed: ir.Value  # [1, tokens] the inverse: index of each token among tiles * width
    blocks: ir.Value  # [tiles, blocks] that hold each tile's keys; the row is filled up with its first
    query_position: ir.Value  # [tiles, 1, width, 1]
    key_position: ir.Value  # [1, 1, 1, blocks * block_size]


def plan(op: Scribe, ids: ir.Value, given: Given, pool: ir.Value) -> Step:
    """Compute a step's indices from lengths and block table."""
    table, cumulative, past = (
        op("Cast", value, to=ir.DataType.INT64) for value in (given.table, given.cumulative, given.past)
    )
    starts, ends = op("Slice", cumulative, [0], [-1]), op("Slice", cumulative, [1], [LAST])
    count, block_size = op("Squeeze", op("Shape", ids)), op("Squeeze", op("Shape", pool, start=1, end=2))
    token, last = op("Range", 0, count, 1), op("Sub", ends, 1)
    row = _row(op, token, ends)
    position = op("Add", token, op("Gather", op("Sub", past, starts), row))
    block = op("GatherND", table, _columns(op, row, op("Div", position, block_size)))
    place, written = _writing(
        op, block, position, token, op("Compress", last, _begins(op, position, last, past, block_size)), block_size
    )

    lengths = op("Sub", ends, starts)
    width = op("Min", op("ReduceMax", lengths, keepdims=0), TILE)
    tiles = op("Div", op("Add", lengths, op("Sub", width, 1)), width)
    tile_ends = op("CumSum", tiles, 0)
    begin = op("Mul", op("Sub", tile_ends, tiles), width)  # of each request, among tiles * width
    tile = op("Range", 0, op("ReduceSum", tiles, keepdims=0), 1)
    row_of_tile, tile_begin = _row(op, tile, tile_ends), op("Mul", tile, width)
    shift = op("Sub", starts, begin)
    column = op("Range", 0, width, 1)
    first = op("Add", tile_begin, op("Gather", shift, row_of_tile))
    spread = op("Add", op("Unsqueeze", first, [1]), column)
    before = op("Add", tile_begin, op("Gather", op("Sub", past, begin), row_of_tile))
    keys = op("Min", op("Gather", op("Add", past, lengths), row_of_tile), op("Add", before, width))

    blocks = op("Div", op("Add", keys, op("Sub", block_size, 1)), block_size)
    most = op("ReduceMax", blocks, keepdims=0)
    nth = op("Range", 0, most, 1)
    own = op("Where", op("Less", nth, op("Unsqueeze", blocks, [1])), nth, 0)
    key = op("Range", 0, op("Mul", most, block_size), 1)
    return Step(
        position=position,
        place=place,
        written=written,
        last=last,
        spread=op("Min", spread, op("Sub", count, 1)),
        packed=op("Unsqueeze", op("Sub", token, op("Gather", shift, row)), [0]),
        blocks=op("GatherElements", op("Gather", table, row_of_tile), own, axis=1),
        query_position=op("Unsqueeze", op("Add", op("Unsqueeze", before, [1]), column), [1, 3]),
        key_position=op("Unsqueeze", key, [0, 1, 2]),
    )


def _begins(op: Scribe, position: ir.Value, last: ir.Value, past: ir.Value, block_size: ir.Value) -> ir.Value:
    """[batch] true where the block of a request's last token had no token before this call."""
    end = op("Gather", position, last)
    return op("GreaterOrEqual", op("Sub", end, op("Mod", end, block_size)), past)


def _writing(
    op: Scribe, block: ir.Value, position: ir.Value, token: ir.Value, filling: ir.Value, block_size: ir.Value
) -> tuple[ir.Value, ir.Value]:
    """Where keys and values go, and of which tokens: each in its slot [tokens], those of `filling` up to a block's end.

    Of the slots of a block those before the filling token's own are taken to be its own once more.
    """
    slot = op("Mod", position, block_size)
    rest = op("Max", op("Unsqueeze", op("Gather", slot, filling), [1]), op("Range", 0, block_size, 1))
    again = op("Reshape", op("Expand", op("Unsqueeze", filling, [1]), op("Shape", rest)), [-1])
    slots = op("Concat", slot, op("Reshape", rest, [-1]), axis=0)
    written = op("Concat", token, again, axis=0)
    return _columns(op, op("Gather", block, written), slots), written


def visible(op: Scribe, step: Step, window: int) -> ir.Value:
    """[tiles, 1, width, keys] true where a query may look."""
    seen = op("LessOrEqual", step.key_position, step.query_position)
    if window == ALL_TOKENS:
        return seen
    return op("And", seen, op("Greater", step.key_position, op("Sub", step.query_position, window)))


Paged = tuple[ir.Value, list[ir.Value]]  # what the tokens attended to [1, tokens, heads * size], and the pools written


def attend_on_cpu(
    op: Scribe,
    layer: Attention,
    rows: list[ir.Value],
    pools: list[Pool],
    step: Step,
    mask: ir.Value,
    dtype: ir.DataType,
) -> Paged:
    """rows: query, key, value [1, tokens, ...], of the graph's dtype, in which attention computes."""
    query, *new = rows
    written, gathered = [], []
    for pool, one in zip(pools, new, strict=True):
        put = op("Gather", _stored(op, one, pool, dtype), step.written)
        written.append(op("ScatterND", pool.value, step.place, put))
        found = op("Reshape", op("Gather", written[-1], step.blocks), [0, -1, math.prod(pool.sizes)])
        gathered.append(found if pool.value.dtype == dtype else op("Cast", found, to=dtype))
    keys, values = pools
    attended = op(
        "Attention",
        op("Gather", _scaled(op, _flat(op, query, layer, keys), keys, layer, dtype), step.spread),
        *gathered,
        mask,
        q_num_heads=layer.heads,
        kv_num_heads=keys.sizes[0],
        scale=layer.scale,
        softcap=layer.softcap,
    )
    packed = op("Gather", _flat(op, attended, layer, values), step.packed)
    return _scaled(op, packed, values, layer, dtype), written


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
    attended = op("Unsqueeze", output, [0])
    return op("Cast", attended, to=dtype) if dtype == ir.DataType.FLOAT else attended, written


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


def _flat(op: Scribe, value: ir.Value, layer: Attention, pool: Pool) -> ir.Value:
    """[..., heads * size] -> [tokens, heads * size]"""
    return op("Reshape", value, [-1, layer.heads * pool.sizes[1]])


def _row(op: Scribe, index: ir.Value, ends: ir.Value) -> ir.Value:
    """Which part each index falls into, of parts that end at `ends`."""
    passed = op("GreaterOrEqual", op("Unsqueeze", index, [1]), op("Unsqueeze", ends, [0]))
    return op("ReduceSum", op("Cast", passed, to=ir.DataType.INT64), [1], keepdims=0)


def _columns(op: Scribe, *values: ir.Value) -> ir.Value:
    """Indices side by side: [..., number of them]."""
    return op("Concat", *(op("Unsqueeze", value, [-1]) for value in values), axis=-1)
