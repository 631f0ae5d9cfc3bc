"""A decoder with its cache laid out flat, as a graph wants it, or without one.

with past       forward(input_ids, attention_mask, position_ids, key 0, value 0, ...)  ->  logits, key 0, value 0, ...
without past    forward(input_ids, attention_mask, position_ids)  ->  logits
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from compressor.errors import RequestError
from compressor.export.tracing import BATCH, SEQUENCE, Call, Input
from compressor.graph import decoder

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PAST, TOTAL = "past_sequence_length", "total_sequence_length"
TRACED = {BATCH: 2, SEQUENCE: 3, PAST: 5, TOTAL: 8}
TRACED_ALONE = {BATCH: 2, SEQUENCE: 8}


class DecoderModule(nn.Module):
    """Takes and returns the cache as tensors; positions where the model takes them."""

    def __init__(self, model: PreTrainedModel, *, with_past: bool = True) -> None:
        super().__init__()
        self.wrapped, self.training, self.with_past = model, model.training, with_past
        self.takes_positions = decoder.POSITIONS in inspect.signature(model.forward).parameters

    def forward(self, *tensors: Tensor) -> list[Tensor]:
        from transformers.cache_utils import DynamicCache

        input_ids, attention_mask, position_ids, *past = tensors
        extra = {decoder.POSITIONS: position_ids} if self.takes_positions else {}
        cache = DynamicCache(list(zip(past[::2], past[1::2], strict=True))) if self.with_past else None
        result: Any = self.wrapped(
            input_ids=input_ids,
            attention_mask=attention_mask,
            past_key_values=cache,
            use_cache=self.with_past,
            **extra,
        )
        layers = result.past_key_values.layers if self.with_past else ()
        return [result.logits, *(tensor for layer in layers for tensor in (layer.keys, layer.values))]

    def call(self) -> Call:
        """How it is traced, and the names of its inputs, outputs and free axes."""
        cache = self._cache() if self.with_past else []
        depth = range(len(cache) // 2)
        past = [form.format(n) for n in depth for form in (decoder.PAST_KEY, decoder.PAST_VALUE)]
        present = [form.format(n) for n in depth for form in (decoder.PRESENT_KEY, decoder.PRESENT_VALUE)]
        inputs = {
            decoder.IDS: Input((BATCH, SEQUENCE), _counted),
            decoder.MASK: Input((BATCH, TOTAL if self.with_past else SEQUENCE), _padded),
            decoder.POSITIONS: Input((BATCH, SEQUENCE), _counted),
        }
        inputs |= {
            name: Input((BATCH, heads, PAST, size), _zeros(dtype))
            for name, (heads, size, dtype) in zip(past, cache, strict=True)
        }
        traced = TRACED if self.with_past else TRACED_ALONE
        return Call(type(self.wrapped).__name__, self, inputs, (decoder.LOGITS, *present), traced, checked={})

    def _cache(self) -> list[tuple[int, int, torch.dtype]]:
        """Heads, size and type of every key and value, as a call without data returns them.

        Raises: RequestError when the model remembers in another way than by keys and values.
        """
        from transformers.cache_utils import DynamicCache

        with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
            result = self.wrapped(input_ids=torch.zeros(1, 2, dtype=torch.int64), use_cache=True)
        held: Any = getattr(result, "past_key_values", None)
        pairs = [(one.keys, one.values) for one in held.layers] if isinstance(held, DynamicCache) else []
        parts = [part for pair in pairs for part in pair]
        if not parts or not all(isinstance(part, Tensor) and part.ndim == 4 for part in parts):
            raise RequestError(f"{type(self.wrapped).__name__} keeps no keys and values between calls; not supported")
        return [(part.shape[1], part.shape[3], part.dtype) for part in parts]


def _counted(shape: tuple[int, ...]) -> Tensor:
    """Row by row 0 1 2 ...: tokens that every vocabulary has, and positions."""
    return torch.arange(shape[-1]).expand(shape).clone()


def _padded(shape: tuple[int, ...]) -> Tensor:
    """A mask of ones would disappear from the graph."""
    mask = torch.ones(shape, dtype=torch.int64)
    mask[0, :2] = 0
    return mask


def _zeros(dtype: torch.dtype) -> Callable[[tuple[int, ...]], Tensor]:
    return lambda shape: torch.zeros(shape, dtype=dtype)
