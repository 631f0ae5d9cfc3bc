"""A decoder as its graph shows it: inputs, cache, and how to feed them.

    input_ids [batch, sequence]   attention_mask [batch, past + sequence]   position_ids [batch, sequence]
    past_key_values.N.key / .value [batch, kv_heads, past, head_size]
    -> logits [batch, sequence, vocab]   present.N.key / .value [batch, kv_heads, past + sequence, head_size]

The names are those of Optimum and onnxruntime-genai. A mask row is 0 where the token is padding, left or right.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnxruntime as ort

IDS, MASK, POSITIONS = "input_ids", "attention_mask", "position_ids"
LAYER_OF_CACHE = re.compile(r"(?<=^past_key_values\.)\d+(?=\.)|(?<=^present\.)\d+(?=\.)")  # in a name, its number
PAST_KEY, PAST_VALUE = "past_key_values.{}.key", "past_key_values.{}.value"
PRESENT_KEY, PRESENT_VALUE = "present.{}.key", "present.{}.value"
LOGITS = "logits"

Feeds = dict[str, NDArray[np.generic]]


@dataclass(frozen=True)
class Decoder:
    """The sizes that a decoder's graph states."""

    layers: int
    kv_heads: int
    head_size: int
    vocab: int
    inputs: tuple[str, ...]
    cache_dtype: np.dtype[Any] = field(default_factory=lambda: np.dtype(np.float32))
    value_size: int | None = None  # where a value is not as long as a key

    @classmethod
    def of(cls, model: ir.Model) -> Decoder | None:
        """Read the sizes off a graph; None when it is no decoder with a cache."""
        values = {str(value.name): value for value in (*model.graph.inputs, *model.graph.outputs)}
        shapes = {name: value.shape for name, value in values.items()}
        past, logits = shapes.get(PAST_KEY.format(0)), shapes.get(LOGITS)
        if past is None or logits is None or len(past) != 4:
            return None
        cache, value = values[PAST_KEY.format(0)].dtype or ir.DataType.FLOAT, shapes.get(PAST_VALUE.format(0))
        kv_heads, head_size, vocab = past[1], past[3], logits[-1]
        if not (isinstance(kv_heads, int) and isinstance(head_size, int) and isinstance(vocab, int)):
            return None
        inputs = tuple(str(value.name) for value in model.graph.inputs)
        layers = sum(name.startswith("past_key_values.") and name.endswith(".key") for name in inputs)
        return cls(layers, kv_heads, head_size, vocab, inputs, np.dtype(cache.numpy()), _value_size(value, head_size))

    @property
    def cache_names(self) -> list[str]:
        return [form.format(layer) for layer in range(self.layers) for form in (PAST_KEY, PAST_VALUE)]

    @property
    def present_names(self) -> list[str]:
        return [form.format(layer) for layer in range(self.layers) for form in (PRESENT_KEY, PRESENT_VALUE)]

    def feeds(
        self,
        ids: NDArray[np.int64],
        mask: NDArray[np.int64] | None = None,
        past: Sequence[NDArray[np.generic]] | None = None,
    ) -> Feeds:
        """Inputs of one call. ids [batch, sequence], mask [batch, past + sequence] (ones if None), past or none."""
        past = self.empty_past(ids.shape[0]) if past is None else past
        if mask is None:
            mask = np.ones((ids.shape[0], past[0].shape[2] + ids.shape[1]), np.int64)
        every: Feeds = {IDS: ids, MASK: mask, POSITIONS: positions(mask)[:, -ids.shape[1] :]}
        every |= dict(zip(self.cache_names, past, strict=True))
        return {name: every[name] for name in self.inputs}

    def empty_past(self, batch: int) -> list[NDArray[np.generic]]:
        return [np.zeros(shape, self.cache_dtype) for shape in self._cache_shapes(batch, 0)]

    def _cache_shapes(self, batch: int, past: int) -> list[tuple[int, ...]]:
        sizes = (self.head_size, self.head_size if self.value_size is None else self.value_size)
        return [(batch, self.kv_heads, past, size) for _ in range(self.layers) for size in sizes]

    def promised(self, name: str, output: NDArray[np.generic], feeds: Feeds) -> NDArray[np.generic]:
        """An output with 0 where the token is padding: nothing is promised of what is computed there."""
        real = feeds[MASK].astype(bool)  # [batch, past + sequence]
        if name == LOGITS:
            return np.where(real[:, -output.shape[1] :, None], output, 0)
        return np.where(real[:, None, :, None], output, 0) if name in self.present_names else output

    def probes(self, seed: int = 0) -> list[Feeds]:
        """Calls that together visit what a decoder does: prefill of padded rows, then a step with a filled cache."""
        rng = np.random.default_rng(seed)
        ids = rng.integers(0, self.vocab, (2, 7))
        mask = np.ones((2, 7), np.int64)
        mask[0, :3] = 0
        shapes = self._cache_shapes(2, 5)
        past = [rng.standard_normal(shape, np.float32).astype(self.cache_dtype) for shape in shapes]
        step_mask = np.ones((2, 6), np.int64)
        step_mask[1, :2] = 0
        return [self.feeds(ids, mask), self.feeds(rng.integers(0, self.vocab, (2, 1)), step_mask, past)]


@dataclass(frozen=True)
class DecoderSession:
    """A decoder that runs: one session and the sizes of its graph."""

    decoder: Decoder
    session: ort.InferenceSession

    def step(
        self,
        ids: NDArray[np.int64],
        mask: NDArray[np.int64] | None = None,
        past: Sequence[NDArray[np.generic]] | None = None,
    ) -> tuple[NDArray[np.float32], list[NDArray[np.generic]]]:
        """One call: logits [batch, sequence, vocab] and the cache grown by `sequence`."""
        names = [LOGITS, *self.decoder.present_names]
        logits, *present = self.session.run(names, self.decoder.feeds(ids, mask, past))
        return logits, present

    def logits(self, ids: NDArray[np.int64], mask: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """Logits of a prompt, the cache left aside."""
        result: NDArray[np.float32] = self.session.run([LOGITS], self.decoder.feeds(ids, mask))[0]
        return result

    def greedy(self, ids: Sequence[int], new_tokens: int, stop: int | None = None) -> list[int]:
        """The most likely continuation, token by token, of one prompt; ends after `stop`."""
        chosen: list[int] = []
        logits, past = self.step(np.array([ids], np.int64))
        for _ in range(new_tokens):
            chosen.append(int(logits[0, -1].argmax()))
            if chosen[-1] == stop or len(chosen) == new_tokens:
                break
            logits, past = self.step(np.array([chosen[-1:]], np.int64), past=past)
        return chosen


def _value_size(value: ir.Shape | None, head_size: int) -> int | None:
    """The size of a value, where it is stated and not that of a key."""
    size = value[3] if value is not None else None
    return size if isinstance(size, int) and size != head_size else None


def positions(mask: NDArray[np.int64]) -> NDArray[np.int64]:
    """Positions that count tokens and skip padding: mask 0 0 1 1 1 -> 0 0 0 1 2."""
    counted: NDArray[np.int64] = np.maximum(mask.cumsum(-1) - 1, 0)
    return counted
