"""How far back a mask lets a query look: measured on the mask itself, whatever nodes compute it.

    one query after `context - 1` tokens      visible keys = window (all of them: no window)
    five queries after three tokens           must be the very band that the window says

A mask that is neither causal nor a sliding window (chunks, a bias of distances) is refused: paged, it would be lost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common_passes
from numpy.typing import NDArray

from compressor.errors import RequestError
from compressor.graph import decoder
from compressor.graph.session import open_session
from compressor.package.attention import ALL_TOKENS

PAST, QUERIES = 3, 5
MASKED = -1e4  # float16's smallest number is -65504; a bias that is meant as one stays far above


def measure(model: ir.Model, masks: Sequence[str], context: int) -> Mapping[str, int]:
    """Newest keys that a query sees, of each mask by its name; `ALL_TOKENS` for a causal mask."""
    if not masks:
        return {}
    probe = _masks_alone(model, masks)
    alone = dict(zip(masks, _run(probe, past=context - 1, queries=1), strict=True))
    band = dict(zip(masks, _run(probe, past=PAST, queries=QUERIES), strict=True))
    found = {}
    for name in masks:
        seen = _visible(name, alone[name])
        window = int(seen.sum())
        if not seen[..., context - window :].all() or not np.array_equal(_visible(name, band[name]), _band(window)):
            raise RequestError(f"no paged attention: the mask {name} is neither causal nor a sliding window")
        found[name] = ALL_TOKENS if window == context else window
    return found


def _masks_alone(model: ir.Model, masks: Sequence[str]) -> ir.Model:
    """The part of a graph that computes its masks; of the cache it reads sizes alone, so a small one will do."""
    alone = model.clone()
    graph = alone.graph
    values = {value.name: value for node in graph for value in node.outputs}
    graph.outputs.clear()
    graph.outputs.extend(values[name] for name in masks)
    common_passes.RemoveUnusedNodesPass()(alone)
    for value in list(graph.inputs):
        if not value.uses():
            graph.inputs.remove(value)
        elif value.shape is not None:
            value.shape = ir.Shape([None] * len(value.shape))
    return alone


def _run(probe: ir.Model, past: int, queries: int) -> list[NDArray[np.generic]]:
    """The masks of one row without padding."""
    total = past + queries
    tokens = {
        decoder.IDS: np.zeros((1, queries), np.int64),
        decoder.MASK: np.ones((1, total), np.int64),
        decoder.POSITIONS: np.arange(past, total)[None],
    }
    feeds = {}
    for value in probe.graph.inputs:
        name, dtype = str(value.name), value.dtype
        assert dtype is not None  # every input of a decoder states its type
        feeds[name] = tokens[name] if name in tokens else np.zeros((1, 1, past, 1), dtype.numpy())
    found: list[NDArray[np.generic]] = open_session(probe, "exact").run(None, feeds)
    return found


def _visible(name: str, mask: NDArray[Any]) -> NDArray[np.bool_]:
    """True where a key is visible; the same for every head."""
    seen = mask if mask.dtype == np.bool_ else mask == 0
    if mask.dtype != np.bool_ and not np.all(seen | (mask < MASKED)):
        raise RequestError(f"no paged attention: the mask {name} holds a bias, not only what is visible")
    if not np.all(seen == seen[:1, :1]):
        raise RequestError(f"no paged attention: the mask {name} differs from head to head")
    return np.asarray(seen[0, 0], np.bool_)


def _band(window: int) -> NDArray[np.bool_]:
    query, key = np.arange(PAST, PAST + QUERIES)[:, None], np.arange(PAST + QUERIES)[None]
    return np.asarray((key <= query) & (key > query - window), np.bool_)
