"""Where the packed tokens of many requests lie in a pool of blocks, and what each of them may look at.

    pool [num_blocks, block_size, heads, size]   a request's block table names its blocks in order, so position p of it
                                                 lies in block table[p // block_size], slot p % block_size

What a call has to know of that is computed once, from standard operators, and read by the attention of every layer
(`paged_attention.py`). Each Attention takes a mask of its own for each row, since requests differ in length. An
engine's pool begins as it was found, and a number that is none would survive a weight of zero: so the last token of a
call that begins a block is written into the rest of the block too, until others come there, and where a request has no
block its last is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from compressor.package.attention import ALL_TOKENS
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


Masks = dict[int, ir.Value]  # by the window of a layer: [rows, 1, width, keys] true where a query may look


@dataclass(frozen=True)
class View:
    """What rows of queries look at."""

    blocks: ir.Value  # [rows, blocks] of the pool that hold each row's keys; a shorter row is filled up with its last
    masks: Masks


@dataclass(frozen=True)
class Step:
    """What a call computes once for all layers.

    A request that brings several tokens is cut into tiles of one width, each a row of the attention: one long prompt
    among steps of one token would fill up every row to its own length otherwise (eight rows, one of them 248 tokens
    long, of the built-in model on a busy machine: 590 ms without tiles, 254 ms with). One that brings a single token
    is no tile: beside 250 tokens of a prompt, six of those took 27 ms as tiles and take 14.
    """

    place: ir.Value  # [written, 2] block and slot that keys and values go to
    written: ir.Value  # [written] index of the token that goes there
    last: ir.Value  # [batch] index of each request's last token
    alone: View  # of those
    several: ir.Value  # whether a request brings more than its last token
    position: ir.Value  # [1, tokens] of each token in its request
    tiles: View  # of the requests that bring several
    spread: ir.Value  # [tiles, width] index of each tile's tokens; the last of a request is filled up with its last
    chosen: ir.Value  # [1, tokens] index of each token among tiles * width, followed by the last ones


@dataclass(frozen=True)
class Lengths:
    """What is known of each request of a call: all of them int64 [batch], the size of a block beside them."""

    past: ir.Value  # tokens that lie in the pool
    starts: ir.Value  # index of its first token
    last: ir.Value  # and of its last
    counts: ir.Value  # tokens that it brings
    total: ir.Value  # tokens, with those
    last_block: ir.Value  # the block of the last token, in its own count
    block_size: ir.Value


def plan(op: Scribe, given: Given, pool: ir.Value, windows: Sequence[int]) -> Step:
    """Compute a step's indices from lengths and block table.

    In most calls each request brings one token, to a block that has some: what only others need lies in a branch, and
    what only prompts need in a branch of that. A node takes a microsecond however little it computes, and a plan for
    all took an eighth of the built-in model's call.
    """
    cumulative, past = (op("Cast", value, to=ir.DataType.INT64) for value in (given.cumulative, given.past))
    block_size = op("Squeeze", op("Shape", pool, start=1, end=2))
    starts, ends = op("Slice", cumulative, [0], [-1]), op("Slice", cumulative, [1], [LAST])
    counts, last = op("Sub", ends, starts), op("Sub", ends, 1)
    total = op("Add", past, counts)
    last_block = op("Div", op("Sub", total, 1), block_size)
    lengths = Lengths(past, starts, last, counts, total, last_block, block_size)
    blocks, keys = _of_each_last(op, given.table, lengths)
    queries = op("Unsqueeze", op("Sub", total, 1), [1, 2, 3])
    alone = View(blocks, {window: visible(op, queries, keys, window) for window in windows})
    several = op("Greater", op("ReduceMax", counts, keepdims=0), 1)
    none = _no_tiles(op, windows)

    def tiled() -> list[ir.Value]:
        return _in_tiles(op, lengths, blocks, keys, windows)

    def untiled() -> list[ir.Value]:
        """Each request's token comes after its past; tiles there are none."""
        return [op("Unsqueeze", past, [0]), *(op("Identity", one) for one in none)]

    fills = _fills(op, lengths)
    place, written, position, spread, chosen, own, *masks = op.choose(
        op("Greater", op("ReduceMax", fills, keepdims=0), 1),
        lambda: [*_writing(op, given.table, lengths, fills), *op.choose(several, tiled, untiled)],
        lambda: [*_one_each(op, given.table, lengths), *untiled()],
    )
    tiles = View(own, dict(zip(windows, masks, strict=True)))
    return Step(place, written, last, alone, several, position, tiles, spread, chosen)


def _of_each_last(op: Scribe, table: ir.Value, lengths: Lengths) -> tuple[ir.Value, ir.Value]:
    """Blocks of each request [batch, blocks] and positions of the keys in them [blocks * block_size]."""
    most = op("Add", op("ReduceMax", lengths.last_block, keepdims=0), 1)
    own = op("Min", op("Range", 0, most, 1), op("Unsqueeze", lengths.last_block, [1]))
    keys = op("Range", 0, op("Mul", most, lengths.block_size), 1)
    return op("GatherElements", table, own, axis=1), keys


def _in_tiles(op: Scribe, lengths: Lengths, blocks: ir.Value, keys: ir.Value, windows: Sequence[int]) -> list[ir.Value]:
    """Of a step: position, spread, chosen; of its tiles: blocks and masks."""
    is_tiled = op("Greater", lengths.counts, 1)
    tiled = op("Cast", is_tiled, to=ir.DataType.INT64)
    width = op("Min", op("ReduceMax", lengths.counts, keepdims=0), TILE)
    tiles = op("Mul", op("Div", op("Add", lengths.counts, op("Sub", width, 1)), width), tiled)  # [batch]
    row, nth = _pairs(op, tiles)  # [tiles, 1]
    inner = op("Add", op("Mul", nth, width), op("Range", 0, width, 1))  # [tiles, width] among its request's tokens
    spread = op("Min", op("Add", op("Gather", lengths.starts, row), inner), op("Gather", lengths.last, row))

    first = op("Mul", op("Sub", op("CumSum", tiles, 0), tiles), width)
    behind = op("Add", op("Range", 0, op("Size", tiles), 1), op("Size", spread))
    own_row, own_nth = _pairs(op, lengths.counts)  # [tokens, 1]
    position = op("Add", op("Gather", lengths.past, own_row), own_nth)
    chosen = op("Add", op("Gather", op("Where", is_tiled, first, behind), own_row), own_nth)

    most = op("ReduceMax", op("Mul", op("Add", lengths.last_block, 1), tiled))  # [1] blocks that a tile looks at
    keys = op("Slice", keys, [0], op("Mul", most, lengths.block_size))
    queries = op("Unsqueeze", op("Add", op("Gather", lengths.past, row), inner), [1, 3])
    return [
        op("Reshape", position, [1, -1]),
        spread,
        op("Reshape", chosen, [1, -1]),
        op("Gather", op("Slice", blocks, [0], most, [1]), op("Squeeze", row, [1])),
        *(visible(op, queries, keys, window) for window in windows),
    ]


def _no_tiles(op: Scribe, windows: Sequence[int]) -> list[ir.Value]:
    """What stands for spread, chosen, blocks and masks where nobody reads them."""
    none = op.initializer("paged/no tiles", np.zeros((0, 0), np.int64))
    blocks = op.initializer("paged/no blocks", np.zeros((0, 0), np.int32))
    mask = op.initializer("paged/no mask", np.zeros((0, 1, 0, 0), np.bool_))
    return [none, none, blocks, *(mask for _ in windows)]


def _fills(op: Scribe, lengths: Lengths) -> ir.Value:
    """[batch] slots that each request writes: its tokens', and the rest of the last one's block if that had none."""
    begin = op("Mul", lengths.last_block, lengths.block_size)
    is_new = op("GreaterOrEqual", begin, lengths.past)
    return op("Sub", op("Where", is_new, op("Add", begin, lengths.block_size), lengths.total), lengths.past)


def _writing(op: Scribe, table: ir.Value, lengths: Lengths, fills: ir.Value) -> list[ir.Value]:
    """Of a step: place, where keys and values go, and written, of which tokens; the last fills up its block."""
    row, nth = _pairs(op, fills)  # [written, 1]
    position = op("Add", op("Gather", lengths.past, row), nth)
    block = op("GatherND", table, op("Concat", row, op("Div", position, lengths.block_size), axis=1))
    place = _place(op, op("Unsqueeze", block, [1]), op("Mod", position, lengths.block_size))
    token = op("Min", op("Add", op("Gather", lengths.starts, row), nth), op("Gather", lengths.last, row))
    return [place, op("Squeeze", token, [1])]


def _one_each(op: Scribe, table: ir.Value, lengths: Lengths) -> list[ir.Value]:
    """Of a step that brings one token a request, each to a block that has some: place and written."""
    block = op("GatherElements", table, op("Unsqueeze", lengths.last_block, [1]), axis=1)
    slot = op("Unsqueeze", op("Mod", lengths.past, lengths.block_size), [1])
    return [_place(op, block, slot), op("Identity", lengths.last)]


def _place(op: Scribe, block: ir.Value, slot: ir.Value) -> ir.Value:
    """[written, 1] each -> [written, 2]"""
    return op("Concat", op("Cast", block, to=ir.DataType.INT64), slot, axis=1)


def visible(op: Scribe, queries: ir.Value, keys: ir.Value, window: int) -> ir.Value:
    """Positions [rows, 1, width, 1] and [keys] -> [rows, 1, width, keys], true where a query may look."""
    seen = op("LessOrEqual", keys, queries)
    if window == ALL_TOKENS:
        return seen
    return op("And", seen, op("Greater", keys, op("Sub", queries, window)))


def _pairs(op: Scribe, counts: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Parts and their elements: counts [2, 0, 3] -> part [[0], [0], [2], [2], [2]], nth [[0], [1], [0], [1], [2]]."""
    most = op("ReduceMax", counts, keepdims=0)
    grid = op("Less", op("Range", 0, most, 1), op("Unsqueeze", counts, [1]))
    pairs = op("Transpose", op("NonZero", grid), perm=[1, 0])
    part, nth = op.node("Split", pairs, outputs=2, axis=1, num_outputs=2).outputs
    return part, nth
