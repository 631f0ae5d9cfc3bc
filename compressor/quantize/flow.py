"""Calibration data on its way through the segments of a graph, in one pass.

A segment runs in ONNX Runtime and yields the next group's input x; the solver rounds the group's weights; their
products x @ W, with the rounded W, feed the next segment. So every product is computed once, and each layer is
calibrated on the error of the layers before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from compressor.decoder import IDS, MASK, Feeds
from compressor.errors import RequestError, in_a_line
from compressor.quantize import ranks
from compressor.quantize.linears import Linear
from compressor.quantize.memory import copied, mapped, return_free_memory
from compressor.quantize.segments import Segment
from compressor.session import open_session

if TYPE_CHECKING:
    import onnxruntime as ort

# Batches after which the heap is asked for what it holds without use: glibc finds no room for an aligned block in the
# hole that its like has left, and 32 batches of 512 tokens and 2048 inputs left it 75 MB larger.
FREED_EVERY = 8
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
    """

    def __init__(self, batches: Sequence[Feeds], *, dtype: torch.dtype, device: torch.device) -> None:
        batches = ranks.mine(batches)
        self._carried: list[Feeds] = [dict(batch) for batch in batches]
        self._fed = frozenset(batches[0])
        self._real = [torch.from_numpy(np.asarray(batch[MASK], bool)) if MASK in batch else None for batch in batches]
        self._x: list[Tensor] = []  # of the last segment, one a batch
        self._weights: list[tuple[Linear, Tensor]] = []
        self._dtype, self._device = dtype, device
        self._long = IDS in batches[0] and batches[0][IDS].shape[1] > PLAIN_ATTENTION_TOKENS

    def run(self, segment: Segment) -> Iterator[Tensor]:
        """Run a segment on every batch; yields its x, kept until the weights to multiply it by are known."""
        session = self._session(segment.model) if segment.model else None
        multiplied, self._x = self._x[::-1], []
        for index, values in enumerate(self._carried):
            if index % FREED_EVERY == 0:
                return_free_memory()
            if multiplied:
                values.update(self._products(multiplied.pop()))
            if session:
                values.update(self._made(session, segment, values))
            self._x.append(self._kept(torch.from_numpy(values[str(segment.x.name)])))
            for name in segment.last_used - self._fed:
                values.pop(name, None)
            values.update((name, copied(values[name])) for name in segment.outputs if name in values)
            yield from self._inputs(segment, index)

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

    def _session(self, model: ir.Model) -> ort.InferenceSession:
        return open_session(model, "served", spinning=False, tiled=self._long, threads=ranks.threads())

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

    def _kept(self, x: Tensor) -> Tensor:
        """A copy of a batch's x; on the CPU mapped by itself: it goes once it has been multiplied, without a hole."""
        if self._device.type != "cpu" or not x.numel():
            return x.to(self._device, self._dtype)
        room = torch.frombuffer(mapped(x.numel() * self._dtype.itemsize), dtype=self._dtype, count=x.numel())
        return room.view(x.shape).copy_(x)

    def _products(self, x: Tensor) -> Feeds:
        """y = x @ W (+ b) of each linear by name, of the graph's type, in the shape of x."""
        products = ((linear, linear.product(x, weight).numpy()) for linear, weight in self._weights)
        return {str(linear.y.name): y.astype(linear.dtype, copy=False) for linear, y in products}
