"""What a code of an 8-bit cache is worth: a scale for each channel of each head, from what keys and values text gives.

    code = round(value / scale) in -128 .. 127          scale [heads, size] = largest value / 127

onnxruntime-genai's Engine keeps one pool a layer and side, so scales are constants and not made token by token;
com.microsoft.PagedAttention takes the same form (`PER_CHANNEL`). Keys lie in the cache turned by their positions, and a
text of 512 tokens does not show what a channel holds at position 5000: two channels that turn into each other have the
length of their pair as their largest value, which is that of every position. Where the turning is not to be seen in the
graph, that is the largest of a whole head.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from compressor.graph import decoder
from compressor.graph.decoder import Decoder, Feeds
from compressor.package import attention
from compressor.package.attention import Rotary

Array = NDArray[np.float32]
Scales = Mapping[str, Array]  # name of a cache -> [heads, size]
LEVELS = 127
SMALLEST = np.float32(1e-6)  # of a channel that text leaves at zero


def measure(model: ir.Model, sizes: Decoder, presents: Iterable[Mapping[str, Array]]) -> Scales:
    """presents: the cache [batch, heads, tokens, size] after each text, by its output's name.

    Raises: RequestError when the attention of a layer cannot be paged.
    """
    turns = [layer.rotary for layer in attention.find(model, sizes)]
    largest: dict[str, Array] = {}
    for present in presents:
        for layer, rotary in enumerate(turns):
            key, value = present[decoder.PRESENT_KEY.format(layer)], present[decoder.PRESENT_VALUE.format(layer)]
            for form, found in ((decoder.PAST_KEY, reach(key, rotary)), (decoder.PAST_VALUE, _largest(value))):
                name = form.format(layer)
                largest[name] = np.maximum(largest.get(name, SMALLEST), found)
    return {name: found / np.float32(LEVELS) for name, found in largest.items()}


def caches(session: decoder.DecoderSession, calls: Iterable[Feeds]) -> Iterable[Mapping[str, Array]]:
    """The caches that a decoder leaves behind."""
    names = session.decoder.present_names
    for call in calls:
        yield dict(zip(names, session.session.run(names, call), strict=True))


def reach(key: Array, rotary: Rotary | None) -> Array:
    """The largest that each channel [heads, size] of keys [batch, heads, tokens, size] can be at any position."""
    if rotary is None:
        found: Array = np.broadcast_to(_largest(key).max(axis=1, keepdims=True), (key.shape[1], key.shape[3]))
        return found
    apart = (rotary.size // 2, 2) if rotary.interleaved else (2, rotary.size // 2)
    pairs = key[..., : rotary.size].reshape(*key.shape[:3], *apart).astype(np.float32)
    axis = 4 if rotary.interleaved else 3
    lengths = np.broadcast_to(np.sqrt(np.square(pairs).sum(axis, keepdims=True)), pairs.shape)
    turned = _largest(lengths.reshape(*key.shape[:3], rotary.size))
    return np.concatenate([turned, _largest(key[..., rotary.size :])], axis=-1)


def _largest(cache: Array) -> Array:
    found: Array = np.abs(cache).max(axis=(0, 2)).astype(np.float32)
    return found
