"""What a code of the cache is worth: enough for every key at every position, and no more than text asks for."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

import passes
from compressor import catalog
from compressor.graph import decoder
from compressor.graph.decoder import DecoderSession
from compressor.graph.session import open_session
from compressor.package import cache_scales
from compressor.package.attention import Rotary
from tests.decoders import Exported, tokens

HEADS, COUNT, SIZE = 2, 40, 16
TABLE = ir.Value(name="table")  # of cosines or sines: looked at by nobody here
LAYOUTS = [(SIZE, 0), (SIZE, 1), (8, 0), (8, 1)]  # dimensions that turn, and whether neighbours are pairs


def turned(key: np.ndarray, position: int, rotary: Rotary) -> np.ndarray:
    """Rotary embedding, a pair at a time. key [batch, heads, tokens, size]"""
    half, found = rotary.size // 2, key.copy()
    for pair in range(half):
        one, other = (2 * pair, 2 * pair + 1) if rotary.interleaved else (pair, pair + half)
        angle = position * 10000 ** (-pair / half)
        found[..., one] = key[..., one] * np.cos(angle) - key[..., other] * np.sin(angle)
        found[..., other] = key[..., one] * np.sin(angle) + key[..., other] * np.cos(angle)
    return found


@pytest.mark.parametrize(("size", "interleaved"), LAYOUTS)
def test_no_position_goes_beyond_the_reach_of_the_first(size: int, interleaved: int) -> None:
    """One channel a hundred times as loud as the others: where it turns to, its partner is as loud."""
    rotary = Rotary(TABLE, TABLE, size, interleaved)
    key = np.random.default_rng(0).standard_normal((1, HEADS, COUNT, SIZE)).astype(np.float32)
    key[..., 3] *= 100
    reach = cache_scales.reach(key, rotary)
    for position in range(0, 5000, 37):
        assert (np.abs(turned(key, position, rotary)).max((0, 2)) <= reach * (1 + 1e-6)).all()  # of float32
    assert (reach.max(1) < 1.5 * np.abs(key[..., 3]).max((0, 2))).all()
    assert (np.sort(reach, axis=1)[:, : SIZE - 2] < 10).all()  # the loud pair alone is loud


@pytest.mark.parametrize(("size", "interleaved"), LAYOUTS)
def test_the_reach_is_the_same_from_any_position(size: int, interleaved: int) -> None:
    rotary = Rotary(TABLE, TABLE, size, interleaved)
    key = np.random.default_rng(1).standard_normal((2, HEADS, COUNT, SIZE)).astype(np.float32)
    far = cache_scales.reach(turned(key, 4321, rotary), rotary)
    np.testing.assert_allclose(far, cache_scales.reach(key, rotary), rtol=1e-5)  # cosines of float32


def test_where_turning_is_not_seen_a_head_has_one_reach() -> None:
    key = np.random.default_rng(2).standard_normal((1, HEADS, COUNT, SIZE)).astype(np.float32)
    expected = np.repeat(np.abs(key).max((0, 2, 3))[:, None], SIZE, axis=1)
    assert np.array_equal(cache_scales.reach(key, None), expected)


@pytest.mark.parametrize("fuses", [False, True], ids=["exported", "fused"])
def test_every_cache_has_a_scale_that_holds_its_text(exported: Callable[[str], Exported], fuses: bool) -> None:
    graph = exported("llama").graph()
    if fuses:
        chosen = [catalog.resolve(catalog.PASSES[name].where)() for name in catalog.passes_for("cpu")]
        graph = passes.run_passes(graph, chosen, ())[0]
    sizes = Exported.sizes(graph)
    session = DecoderSession(sizes, open_session(graph, "exact"))
    calls = [sizes.feeds(tokens(2, 20)), sizes.feeds(tokens(1, 31))]
    caches = list(cache_scales.caches(session, calls))
    scales = cache_scales.measure(graph, sizes, caches)
    assert list(scales) == sizes.cache_names
    for name, present in zip(sizes.cache_names, sizes.present_names, strict=True):
        largest = np.max([np.abs(one[present]).max((0, 2)) for one in caches], axis=0)
        assert scales[name].shape == (sizes.kv_heads, sizes.head_size)
        assert (largest <= scales[name] * cache_scales.LEVELS * (1 + 1e-6)).all()
        if name == decoder.PAST_VALUE.format(0):
            np.testing.assert_allclose(scales[name] * cache_scales.LEVELS, largest, rtol=1e-6)


def test_a_channel_that_text_leaves_at_zero_has_a_scale(exported: Callable[[str], Exported]) -> None:
    """Division by zero is no code."""
    graph = exported("llama").graph()
    sizes = Exported.sizes(graph)
    empty = np.zeros((1, sizes.kv_heads, 3, sizes.head_size), np.float32)
    scales = cache_scales.measure(graph, sizes, [dict.fromkeys(sizes.present_names, empty)])
    assert all((scale > 0).all() for scale in scales.values())
