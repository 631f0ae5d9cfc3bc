"""Calibration data on its way through the segments of a graph, in one pass.

A segment runs in ONNX Runtime and yields the next group's input x; the solver rounds the group's weights; their
products x @ W, with the rounded W, feed the next segment. So every product is computed once, and each layer is
calibrated on the error of the layers before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from compressor.errors import RequestError, in_a_line
from compressor.graph.decoder import IDS, MASK, Feeds
from compressor.graph.session import open_session
from compressor.quantize.flow.linears import Linear
from compressor.quantize.flow.segments import Segment
from compressor.quantize.machine import ranks
from compressor.quantize.machine.memory import Scratch, copied, keep_heap_small, room
from compressor.quantize.machine.threads import a_batch_each, at_once, in_order

if TYPE_CHECKING:
    import onnxruntime as ort

# Up to here attention is faster with its scores stored than in tiles (10 ms for 24, 8 heads of 64, two cores).
PLAIN_ATTENTION_TOKENS = 1024


def product_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where matrix units multiply it (AMX, CUDA), four times as fast; float32 elsewhere.

    Calibration bears it: inputs are rounded to 8 bits of mantissa; their statistics are computed in float32.
    """
    fast = device.type == "cuda" or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if fast else torch.float32


class Flow:
    """Calibration batches on their way through the segments; of several ranks each has its share (`ranks.py`).

    for segment in segments:
        for x in flow.run(segment): ...             # float32 or bfloat16 [tokens, in], batch by batch
        flow.resume(segment, rounded_weights)       # what flows on is x @ rounded

    On a CPU several batches are on their way at a time, a thread each. A batch's numbers do not depend on how many.
    """

    def __init__(self, batches: Sequence[Feeds], *, dtype: torch.dtype, device: torch.device) -> None:
        keep_heap_small()
        batches = ranks.mine(batches)
        self._carried: list[Feeds] = [dict(batch) for batch in batches]
        self._fed = frozenset(batches[0])
        self._real = [torch.from_numpy(np.asarray(batch[MASK], bool)) if MASK in batch else None for batch in batches]
        self._x: list[Tensor] = [torch.empty(0)] * len(batches)  # of the last segment
        self._weights: list[tuple[Linear, Tensor]] = []
        self._dtype, self._device = dtype, device
        self._long = IDS in batches[0] and batches[0][IDS].shape[1] > PLAIN_ATTENTION_TOKENS
        self._at_once = at_once()
        self._scratch = Scratch()

    def run(self, segment: Segment, pool: ThreadPoolExecutor | None = None) -> Iterator[Tensor]:
        """Run a segment on every batch; yields its x, kept until the weights to multiply it by are known.

        pool: the threads of `a_batch_each`, of those who work on an x with them while the next is on its way.
        """
        session = self._session(segment.model) if segment.model else None
        step, self._scratch = partial(self._step, segment, session), Scratch()
        for index in self._one_by_one(step) if self._device.type == "cuda" else self._several(step, pool):
            yield from self._inputs(segment, index)
        self._weights = []

    def again(self, segment: Segment) -> Iterator[Tensor]:
        """What `run` has yielded, once more."""
        for index in range(len(self._x)):
            yield from self._inputs(segment, index)

    def resume(self, segment: Segment, weights: Sequence[Tensor]) -> None:
        """Say which weights, float32 [in, out], the segment's x is multiplied by."""
        rounded = (weight.to(self._device, self._dtype) for weight in weights)
        self._weights = list(zip(segment.linears, rounded, strict=True))

    def _inputs(self, segment: Segment, index: int) -> Iterable[Tensor]:
        return segment.window.unfold(self._x[index]) if segment.window else (self._tokens(index),)

    def _one_by_one(self, step: Callable[[int], None]) -> Iterator[int]:
        for index in range(len(self._carried)):
            step(index)
            yield index

    def _several(self, step: Callable[[int], None], pool: ThreadPoolExecutor | None) -> Iterator[int]:
        """The same by several threads, as many batches at a time."""
        with nullcontext(pool) if pool else a_batch_each() as threads:
            yield from in_order(threads, step, len(self._carried), self._at_once + 1)

    def _step(self, segment: Segment, session: ort.InferenceSession | None, index: int) -> None:
        """Take one batch through a segment: its x, and what later segments read. Batches know nothing of each other."""
        carried = self._carried[index]
        values = carried | self._products(self._x[index])
        if session:
            values |= self._made(session, segment, values)
        self._x[index] = self._kept(torch.from_numpy(values[str(segment.x.name)]), self._x[index])
        done = [carried.pop(name) for name in segment.last_used - self._fed if name in carried]
        fresh = [name for name in values if name not in carried and name not in segment.last_used]
        carried.update((name, copied(values[name], done)) for name in fresh)

    def _session(self, model: ir.Model) -> ort.InferenceSession:
        """Its threads are those that call it and as many more as there are cores left."""
        threads = ranks.threads() if self._at_once < torch.get_num_threads() else 1
        return open_session(model, "served", spinning=False, tiled=self._long, threads=threads)

    def _made(self, session: ort.InferenceSession, segment: Segment, values: Feeds) -> Feeds:
        """What a segment yields for one batch; held by nobody else, so that it can go before the next is computed."""
        try:
            made = session.run(list(segment.outputs), {name: values[name] for name in segment.inputs})
        except Exception as error:  # ONNX Runtime's own exceptions share no base class
            raise RequestError(f"calibration: the graph does not run on it: {in_a_line(error)}") from None
        return dict(zip(segment.outputs, made, strict=True))

    def _tokens(self, index: int) -> Tensor:
        """The x of a batch, [tokens, in], without those that its attention mask says are padding."""
        tokens, real = self._x[index].flatten(0, -2), self._real[index]
        if real is None or len(tokens) != real.numel() or bool(real.all()):
            return tokens
        return tokens[real.flatten().to(tokens.device)]

    def _kept(self, x: Tensor, before: Tensor) -> Tensor:
        """A copy of a batch's x; on the CPU in the place of the x before it, or in memory that goes when it does."""
        if self._device.type != "cpu":
            return x.to(self._device, self._dtype)
        return (before if before.shape == x.shape else room(tuple(x.shape), self._dtype)).copy_(x)

    def _products(self, x: Tensor) -> Feeds:
        """y = x @ W (+ b) of each linear by name, of the graph's type, in the shape of x; good until the next batch."""
        products = ((linear, linear.product(x, weight, self._scratch).numpy()) for linear, weight in self._weights)
        return {str(linear.y.name): y.astype(linear.dtype, copy=False) for linear, y in products}
