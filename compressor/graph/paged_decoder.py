"""A paged graph as its interface shows it, and one that runs: ONNX Runtime, and the pool that it writes in place.

    input_ids [tokens]   block_table [batch, blocks]   cumulative_sequence_lengths [batch + 1]
    past_sequence_lengths [batch]   past_key_values.N.key / .value [num_blocks, block_size, kv_heads, head_size]
    -> logits [batch, vocab] of each request's last token   present.N.key / .value: the same memory, written in place

    PagedSession.step([Row(tokens, past, blocks), ...]) -> logits

One buffer is bound as input and output of each layer's cache: ScatterND then writes its few rows and copies nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from compressor.graph import decoder
from compressor.graph.session import load_model, open_session

PAGED_MODEL, PAGED_CONFIG = "model.paged.onnx", "paged.json"
TABLE, CUMULATIVE, PAST_LENGTHS = "block_table", "cumulative_sequence_lengths", "past_sequence_lengths"
BATCH = "batch_size"  # onnxruntime-genai's Engine reads this name of an axis of the logits as: one row a request
BLOCK_SIZE = 16  # tokens; prefixes are shared in whole blocks

Array = NDArray[np.generic]


@dataclass(frozen=True)
class Row:
    """One request's part of a call: its next tokens, how many lie in the pool already, and its blocks in order."""

    tokens: Sequence[int]
    past: int
    blocks: Sequence[int]


class PagedSession:
    """Runs on the CPU. The pool begins as `fill`, a pool of codes as the least; no result may depend on it."""

    def __init__(
        self,
        graph: Path | ir.Model,
        num_blocks: int,
        block_size: int,
        *,
        exact: bool = False,
        fill: float = 0.0,
        threads: int = 0,
    ) -> None:
        import onnxruntime as ort

        model = load_model(graph) if isinstance(graph, Path) else graph
        self.session = open_session(graph, "exact" if exact else "served", threads=threads)
        self.binding = self.session.io_binding()
        self.pool_bytes = 0
        past = [value for value in model.graph.inputs if str(value.name).startswith("past_key_values.")]
        for value in past:
            assert value.shape is not None
            assert value.dtype is not None
            sizes = (num_blocks, block_size, *(int(str(size)) for size in value.shape[2:]))
            empty, name = np.zeros(sizes, value.dtype.numpy()), str(value.name)
            if fill != 0:
                empty.fill(fill if value.dtype.is_floating_point() else np.iinfo(empty.dtype).min)
            pool = ort.OrtValue.ortvalue_from_numpy(empty)
            self.pool_bytes += empty.nbytes
            self.binding.bind_ortvalue_input(name, pool)
            self.binding.bind_ortvalue_output(name.replace("past_key_values.", "present."), pool)
        logits = next(value for value in model.graph.outputs if value.name == decoder.LOGITS)
        assert logits.shape is not None
        self.vocab = int(str(logits.shape[1]))

    def step(self, rows: Sequence[Row]) -> NDArray[np.float32]:
        """Compute the rows' tokens, and leave their keys and values in the pool."""
        for name, array in feeds(rows).items():
            self.binding.bind_cpu_input(name, array)
        self.binding.bind_output(decoder.LOGITS, "cpu")
        self.session.run_with_iobinding(self.binding)
        logits: NDArray[np.float32] = self.binding.get_outputs()[-1].numpy()  # in the order they were bound
        return logits


def token_bytes(model: ir.Model) -> int:
    """What the cache of a decoder's graph holds for a token, paged or contiguous: its axes that are stated."""
    caches = [value for value in model.graph.inputs if str(value.name).startswith("past_key_values.")]
    stated = [[size for size in value.shape or () if isinstance(size, int)] for value in caches]
    kinds = [value.dtype or ir.DataType.FLOAT for value in caches]
    return sum(math.prod(sizes) * int(kind.itemsize) for sizes, kind in zip(stated, kinds, strict=True))


def for_this_machine(model: ir.Model) -> bool:
    """Whether a paged graph is made of operators that a CPU has."""
    return all(node.op_type != "PagedAttention" for node in model.graph)


def holds_codes(model: ir.Model) -> bool:
    """Whether the pool of a paged graph holds codes of 8 bits."""
    return any(value.dtype == ir.DataType.INT8 for value in model.graph.inputs)


def feeds(rows: Sequence[Row]) -> dict[str, Array]:
    """The packed inputs of a call, beside the pool. A shorter block table is filled up with -1."""
    table = np.full((len(rows), max(len(row.blocks) for row in rows)), -1, np.int32)
    for index, row in enumerate(rows):
        table[index, : len(row.blocks)] = row.blocks
    return {
        decoder.IDS: np.concatenate([np.asarray(row.tokens, np.int64) for row in rows]),
        TABLE: table,
        CUMULATIVE: np.cumsum([0, *(len(row.tokens) for row in rows)], dtype=np.int32),
        PAST_LENGTHS: np.array([row.past for row in rows], np.int32),
    }
