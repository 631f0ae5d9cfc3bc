"""What the pool of a paged twin holds: the recipe's word, and for 8-bit codes their scales, from the calibration text.

The contiguous graph reads the text as it will be served, its weights rounded: those are the keys and values that come.
"""

from __future__ import annotations

from pathlib import Path

from compressor.artifact import MODEL
from compressor.data import samples
from compressor.data.samples import Samples
from compressor.graph.decoder import Decoder, DecoderSession
from compressor.graph.session import load_model, open_session
from compressor.package import cache_scales
from compressor.package.paged import Cache
from compressor.recipe.recipe import Recipe


def read(folder: Path, recipe: Recipe) -> Samples | None:
    """The text, where the pool is to hold codes. Raises: RequestError as `samples.calibrating`."""
    if not recipe.package.calibrated:
        return None
    return samples.calibrating(recipe.calibration, load_model(folder / MODEL), folder, recipe.images)


def kept(folder: Path, recipe: Recipe, text: Samples | None) -> Cache | None:
    """What `paged.write` is told of the pool. Raises: RequestError when the attention of a layer cannot be paged."""
    cache = recipe.package.kv_cache
    if cache != "int8":
        return cache
    assert text is not None  # `read` is asked first
    model = load_model(folder / MODEL)
    sizes = Decoder.of(model)
    assert sizes is not None  # only decoders have a paged twin
    session = DecoderSession(sizes, open_session(folder / MODEL, "served"))
    calls, _ = samples.unpadded(text.batches, model)  # of any length: a cache grows, no size is fixed
    return cache_scales.measure(model, sizes, cache_scales.caches(session, calls))
