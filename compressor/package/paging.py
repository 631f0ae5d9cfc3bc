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

    several: ir.Value  # whether a request brings more than one token; if none does, there are no tiles
    place: ir.Value  # [written, 2] block and slot that keys and values go to
    written: ir.Value  # [written] index of the token that goes there
    position: ir.Value  # [tokens, 1] of each token in its request
    last: ir.Value  # [batch] index of each request's last token
    alone: View  # of those
    tiles: View  # of the requests that bring several
    spread: ir.Value  # [tiles, width] index of each tile's tokens; the last of a request is filled up with its last
    chosen: ir.Value  # [tokens, 1] index of each token among tiles * width, followed by the last ones


@dataclass(frozen=True)
class Lengths:
    """What is known of each request of a call: all of them int64 [batch], the size of a block beside them."""

    past: ir.Value  # tokens that lie in the pool
    starts: ir.Value  # index of its first token
    last: ir.Value  # and of its last
    newest: ir.Value  # position of its last token
    last_block: ir.Value  # the block of that, in its own count
    block_size: ir.Value


def plan(op: Scribe, tokens: ir.Value, given: Given, pool: ir.Value, windows: Sequence[int]) -> Step:
    """Compute a step's indices from lengths and block table.

    In most calls each request brings one token: what only others need lies in a branch. A node takes a microsecond
    however little it computes, and a plan for all took an eighth of the built-in model's call.
    """
    past = op("Cast", given.past, to=ir.DataType.INT64)
    block_size = op("Squeeze", op("Shape", pool, start=1, end=2))
    several = op("Greater", op("Size", tokens), op("Size", past))
    place, written, position, last, blocks, own, spread, chosen, *masks = op.choose(
        several,
        lambda: _of_prompts(op, given, past, block_size, windows),
        lambda: _of_one_each(op, given, past, block_size, windows),
    )
    alone = View(blocks, dict(zip(windows, masks[: len(windows)], strict=True)))
    tiles = View(own, dict(zip(windows, masks[len(windows) :], strict=True)))
    return Step(several, place, written, position, last, alone, tiles, spread, chosen)


def _of_prompts(
    op: Scribe, given: Given, past: ir.Value, block_size: ir.Value, windows: Sequence[int]
) -> list[ir.Value]:
    """The plan where some bring several tokens."""
    cumulative = op("Cast", given.cumulative, to=ir.DataType.INT64)
    starts, ends = op("Slice", cumulative, [0], [-1]), op("Slice", cumulative, [1], [LAST])
    counts = op("Sub", ends, starts)
    newest = op("Sub", op("Add", past, counts), 1)
    lengths = Lengths(past, starts, op("Sub", ends, 1), newest, op("Div", newest, block_size), block_size)
    blocks, keys = _of_each_last(op, given.table, lengths)
    masks = [visible(op, op("Unsqueeze", newest, [1, 2, 3]), keys, window) for window in windows]
    position, own, spread, chosen, *tiled = _in_tiles(op, lengths, counts, blocks, keys, windows)
    written = _filling(op, given.table, lengths)
    return [*written, position, op("Identity", lengths.last), blocks, own, spread, chosen, *masks, *tiled]


def _of_one_each(
    op: Scribe, given: Given, past: ir.Value, block_size: ir.Value, windows: Sequence[int]
) -> list[ir.Value]:
    """The plan where each brings one token, which comes after its past; tiles there are none."""
    index = op("Range", 0, op("Size", past), 1)
    lengths = Lengths(past, index, index, past, op("Div", past, block_size), block_size)
    blocks, keys = _of_each_last(op, given.table, lengths)
    masks = [visible(op, op("Unsqueeze", past, [1, 2, 3]), keys, window) for window in windows]
    slot = op("Mod", past, block_size)
    written = op.choose(
        op("Equal", op("ReduceMin", slot, keepdims=0), 0),  # a block begins
        lambda: _filling(op, given.table, lengths),
        lambda: _beside_others(op, given.table, lengths, slot),
    )
    own, spread, chosen, *tiled = _no_tiles(op, windows)
    return [*written, op("Unsqueeze", past, [1]), index, blocks, own, spread, chosen, *masks, *tiled]


def _of_each_last(op: Scribe, table: ir.Value, lengths: Lengths) -> tuple[ir.Value, ir.Value]:
    """Blocks of each request [batch, blocks] and positions of the keys in them [blocks * block_size]."""
    most = op("Add", op("ReduceMax", lengths.last_block, keepdims=0), 1)
    own = op("Min", op("Range", 0, most, 1), op("Unsqueeze", lengths.last_block, [1]))
    keys = op("Range", 0, op("Mul", most, lengths.block_size), 1)
    return op("GatherElements", table, own, axis=1), keys


def _in_tiles(
    op: Scribe, lengths: Lengths, counts: ir.Value, blocks: ir.Value, keys: ir.Value, windows: Sequence[int]
) -> list[ir.Value]:
    """Of a step: position; blocks of its tiles, spread, chosen; masks of its tiles."""
    is_tiled = op("Greater", counts, 1)
    tiled = op("Cast", is_tiled, to=ir.DataType.INT64)
    width = op("Min", op("ReduceMax", counts, keepdims=0), TILE)
    tiles = op("Mul", op("Div", op("Add", counts, op("Sub", width, 1)), width), tiled)  # [batch]
    row, nth = _pairs(op, tiles)  # [tiles, 1]
    inner = op("Add", op("Mul", nth, width), op("Range", 0, width, 1))  # [tiles, width] among its request's tokens
    spread = op("Min", op("Add", op("Gather", lengths.starts, row), inner), op("Gather", lengths.last, row))

    first = op("Mul", op("Sub", op("CumSum", tiles, 0), tiles), width)
    behind = op("Add", op("Range", 0, op("Size", tiles), 1), op("Size", spread))
    own_row, own_nth = _pairs(op, counts)  # [tokens, 1]
    position = op("Add", op("Gather", lengths.past, own_row), own_nth)
    chosen = op("Add", op("Gather", op("Where", is_tiled, first, behind), own_row), own_nth)

    most = op("ReduceMax", op("Mul", op("Add", lengths.last_block, 1), tiled))  # [1] blocks that a tile looks at
    keys = op("Slice", keys, [0], op("Mul", most, lengths.block_size))
    queries = op("Unsqueeze", op("Add", op("Gather", lengths.past, row), inner), [1, 3])
    own = op("Gather", op("Slice", blocks, [0], most, [1]), op("Squeeze", row, [1]))
    return [position, own, spread, chosen, *(visible(op, queries, keys, window) for window in windows)]


def _no_tiles(op: Scribe, windows: Sequence[int]) -> list[ir.Value]:
    """What stands for their blocks, spread, chosen and masks where nobody reads them."""
    blocks = op.initializer("paged/no blocks", np.zeros((0, 0), np.int32))
    none = op.initializer("paged/no tiles", np.zeros((0, 0), np.int64))
    mask = op.initializer("paged/no mask", np.zeros((0, 1, 0, 0), np.bool_))
    return [op("Identity", one) for one in (blocks, none, none, *(mask for _ in windows))]


def _filling(op: Scribe, table: ir.Value, lengths: Lengths) -> list[ir.Value]:
    """Of a step: place, where keys and values go, and written, of which tokens.

    A request writes its tokens, and its last into the rest of that one's block if the block had none.
    """
    begin = op("Mul", lengths.last_block, lengths.block_size)
    is_new = op("GreaterOrEqual", begin, lengths.past)
    end = op("Where", is_new, op("Add", begin, lengths.block_size), op("Add", lengths.newest, 1))
    row, nth = _pairs(op, op("Sub", end, lengths.past))  # [written, 1]
    position = op("Add", op("Gather", lengths.past, row), nth)
    block = op("GatherND", table, op("Concat", row, op("Div", position, lengths.block_size), axis=1))
    place = _place(op, op("Unsqueeze", block, [1]), op("Mod", position, lengths.block_size))
    token = op("Min", op("Add", op("Gather", lengths.starts, row), nth), op("Gather", lengths.last, row))
    return [place, op("Squeeze", token, [1])]


def _beside_others(op: Scribe, table: ir.Value, lengths: Lengths, slot: ir.Value) -> list[ir.Value]:
    """The same of a step that brings one token a request, each to a block that has some."""
    block = op("GatherElements", table, op("Unsqueeze", lengths.last_block, [1]), axis=1)
    return [_place(op, block, op("Unsqueeze", slot, [1])), op("Identity", lengths.last)]


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
