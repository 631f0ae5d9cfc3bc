"""Attention over a pool of blocks, for the packed tokens of many requests.

    pool [num_blocks, block_size, heads, size]   a request's block table names its blocks in order, so position p of it
                                                 lies in block table[p // block_size], slot p % block_size

PagedAttention, Kwon et al. 2023 (arXiv 2309.06180). On a CPU from standard operators: ScatterND writes this call's keys
and values into the pool, in place when an engine binds one buffer to input and output; GatherND brings the keys of each
request side by side; Attention takes a mask for each row, since requests differ in length. Where a request has no key,
its first is read: an engine's pool begins as it was found, and a number that is none would survive a weight of zero.
On CUDA the three are com.microsoft.PagedAttention, which computes in half precision.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

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
class Step:
    """What a call computes once for all layers.

    A request's tokens are cut into tiles of one width, each a row of the attention with what lies before it as its
    past: one long prompt among steps of one token would fill up every row to its own length otherwise (eight rows, one
    of them 248 tokens long, of the built-in model on a busy machine: 590 ms without tiles, 254 ms with).
    """

    position: ir.Value  # [tokens] of each token in its request
    place: ir.Value  # [tokens, 2] block and slot where each token's key and value go
    last: ir.Value  # [batch] index of each request's last token
    spread: ir.Value  # [tiles, width] index of each tile's tokens; the last of a request is filled up with any
    packed: ir.Value  # [tokens] the inverse: index of each token among tiles * width
    source: ir.Value  # [tiles, keys, 2] block and slot of each tile's keys; the row is filled up with its first
    query_position: ir.Value  # [tiles, 1, width, 1]
    key_position: ir.Value  # [1, 1, 1, keys]


def plan(op: Scribe, ids: ir.Value, given: Given, pool: ir.Value) -> Step:
    """Compute a step's indices from lengths and block table."""
    table, cumulative, past = (
        op("Cast", value, to=ir.DataType.INT64) for value in (given.table, given.cumulative, given.past)
    )
    starts, ends = op("Slice", cumulative, [0], [-1]), op("Slice", cumulative, [1], [LAST])
    count = op("Squeeze", op("Shape", ids))
    token = op("Range", 0, count, 1)
    row = _row(op, token, ends)
    offset = op("Sub", token, op("Gather", starts, row))
    position = op("Add", op("Gather", past, row), offset)

    block_size = op("Squeeze", op("Shape", pool, start=1, end=2))
    nth_block = op("Div", position, block_size)
    block = op("GatherND", table, _columns(op, row, nth_block))

    lengths = op("Sub", ends, starts)
    width = op("Min", op("ReduceMax", lengths, keepdims=0), TILE)
    tiles = op("Div", op("Add", lengths, op("Sub", width, 1)), width)
    tile_ends = op("CumSum", tiles, 0)
    tile = op("Range", 0, op("ReduceSum", tiles, keepdims=0), 1)
    row_of_tile = _row(op, tile, tile_ends)
    first_tile = op("Sub", tile_ends, tiles)
    begin = op("Mul", op("Sub", tile, op("Gather", first_tile, row_of_tile)), width)  # in the tokens of its request

    column = op("Range", 0, width, 1)
    spread = op("Add", op("Unsqueeze", op("Add", op("Gather", starts, row_of_tile), begin), [1]), column)
    before = op("Add", op("Gather", past, row_of_tile), begin)
    keys = op("Min", op("Gather", op("Add", past, lengths), row_of_tile), op("Add", before, width))
    key = op("Range", 0, op("ReduceMax", keys, keepdims=0), 1)
    own = op("Where", op("Less", key, op("Unsqueeze", keys, [1])), key, 0)
    tables = op("Gather", table, row_of_tile)
    block_of_key = op("GatherElements", tables, op("Div", own, block_size), axis=1)
    tile_of_token = op("Add", op("Gather", first_tile, row), op("Div", offset, width))
    return Step(
        position=position,
        place=_columns(op, block, op("Mod", position, block_size)),
        last=op("Sub", ends, 1),
        spread=op("Min", spread, op("Sub", count, 1)),
        packed=op("Add", op("Mul", tile_of_token, width), op("Mod", offset, width)),
        source=_columns(op, block_of_key, op("Mod", own, block_size)),
        query_position=op("Unsqueeze", op("Add", op("Unsqueeze", before, [1]), column), [1, 3]),
        key_position=op("Unsqueeze", key, [0, 1, 2]),
    )


def visible(op: Scribe, step: Step, window: int) -> ir.Value:
    """[tiles, 1, width, keys] true where a query may look."""
    seen = op("LessOrEqual", step.key_position, step.query_position)
    if window == ALL_TOKENS:
        return seen
    return op("And", seen, op("Greater", step.key_position, op("Sub", step.query_position, window)))


Paged = tuple[ir.Value, list[ir.Value]]  # what the tokens attended to [tokens, heads * size], and the two pools written


def attend_on_cpu(
    op: Scribe,
    layer: Attention,
    rows: list[ir.Value],
    pools: list[ir.Value],
    step: Step,
    mask: ir.Value,
    dtype: ir.DataType,
) -> Paged:
    """rows: query, key, value [tokens, heads * size], of the graph's dtype, in which attention computes."""
    query, *new = rows
    written, gathered = [], []
    for pool, one in zip(pools, new, strict=True):
        heads, size = sizes(pool)
        put = op("Reshape", one if pool.dtype == dtype else op("Cast", one, to=pool.dtype), [-1, heads, size])
        written.append(op("ScatterND", pool, step.place, put))
        found = op("Reshape", op("GatherND", written[-1], step.source), [0, -1, heads * size])
        gathered.append(found if pool.dtype == dtype else op("Cast", found, to=dtype))
    attended = op(
        "Attention",
        op("Gather", query, step.spread),
        *gathered,
        mask,
        q_num_heads=layer.heads,
        kv_num_heads=sizes(pools[0])[0],
        scale=layer.scale,
        softcap=layer.softcap,
    )
    return op("Gather", op("Reshape", attended, [-1, layer.heads * sizes(pools[1])[1]]), step.packed), written


def attend_on_cuda(
    op: Scribe, layer: Attention, rows: list[ir.Value], pools: list[ir.Value], given: Given, dtype: ir.DataType
) -> Paged:
    """rows as above, of the graph's dtype; the pools are half precision already."""
    node = op.node(
        "PagedAttention",
        *(op("Cast", value, to=ir.DataType.FLOAT16) if dtype == ir.DataType.FLOAT else value for value in rows),
        *pools,
        given.cumulative,
        given.past,
        given.table,
        domain=CONTRIB,
        outputs=3,
        num_heads=layer.heads,
        kv_num_heads=sizes(pools[0])[0],
        scale=layer.scale,
        softcap=layer.softcap,
        local_window_size=layer.window or -1,
    )
    output, *written = node.outputs
    return op("Cast", output, to=dtype) if dtype == ir.DataType.FLOAT else output, written


def sizes(pool: ir.Value) -> tuple[int, int]:
    """Heads and head size of a pool."""
    assert pool.shape is not None
    heads, size = pool.shape[2], pool.shape[3]
    assert isinstance(heads, int)  # held by Decoder.of
    assert isinstance(size, int)
    return heads, size


def _row(op: Scribe, index: ir.Value, ends: ir.Value) -> ir.Value:
    """Which part each index falls into, of parts that end at `ends`."""
    passed = op("GreaterOrEqual", op("Unsqueeze", index, [1]), op("Unsqueeze", ends, [0]))
    return op("ReduceSum", op("Cast", passed, to=ir.DataType.INT64), [1], keepdims=0)


def _columns(op: Scribe, *values: ir.Value) -> ir.Value:
    """Indices side by side: [..., number of them]."""
    return op("Concat", *(op("Unsqueeze", value, [-1]) for value in values), axis=-1)
