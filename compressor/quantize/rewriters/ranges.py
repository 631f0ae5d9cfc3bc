"""What of an activation an integer grid should hold, found by running the graph on calibration data.

    minmax       everything that was seen
    percentile   the absolute values up to a share of them (99.999 % leaves out one in a hundred thousand)
    entropy      the threshold whose clipped and coarsened histogram keeps the most of the distribution:
                 least KL(histogram || histogram in 128 levels)         (TensorRT's; Migacz, GTC 2017)

Values are read in two passes where a histogram is wanted: one finds its width, the other fills it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from compressor.errors import RequestError, in_a_line
from compressor.graph.decoder import Feeds
from compressor.graph.session import open_session
from compressor.quantize.machine import ranks

BINS = 2048
LEVELS = 128  # of the absolute value in int8
STRIDE = 16  # bins between two thresholds that are tried; finer moves a scale by less than 1 %


@dataclass(frozen=True)
class Range:
    """The interval of an activation's values; it holds 0, which padding and Relu need exactly."""

    low: float
    high: float


Counts = NDArray[np.int64]


def observe(
    model: ir.Model, names: Sequence[str], batches: Sequence[Feeds], kind: str, percentile: float
) -> dict[str, Range]:
    """The range of each named value over all batches; ONNX Runtime's optimizer is off.

    Raises: RequestError when a value is not finite or the graph does not run on the data.
    """
    lows, highs = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    for name, array in _values(model, names, batches):
        if not np.isfinite(array).all():
            raise RequestError(f"calibration: '{name}' is not finite on this data; no range holds it")
        lows[name] = min(lows[name], float(array.min(initial=0)))
        highs[name] = max(highs[name], float(array.max(initial=0)))
    every = ranks.gathered((lows, highs))
    whole = {name: Range(min(low[name] for low, _ in every), max(high[name] for _, high in every)) for name in names}
    if kind == "minmax":
        return whole
    widest = {name: max(-one.low, one.high) for name, one in whole.items()}
    counts = {name: np.zeros(BINS, np.int64) for name in names}
    for name, array in _values(model, names, batches):
        if widest[name]:
            counts[name] += np.histogram(np.abs(array), BINS, (0, widest[name]))[0]
    counts = {name: sum((one[name] for one in ranks.gathered(counts)), np.zeros(BINS, np.int64)) for name in names}
    threshold = _entropy if kind == "entropy" else lambda seen: _percentile(seen, percentile)
    return {name: _clipped(whole[name], widest[name], counts[name], threshold) for name in names}


def _values(
    model: ir.Model, names: Sequence[str], batches: Sequence[Feeds]
) -> Iterator[tuple[str, NDArray[np.floating]]]:
    tapped = model.clone()
    held = {str(value.name): value for node in tapped.graph for value in node.outputs}
    outputs = {value.name for value in tapped.graph.outputs}
    tapped.graph.outputs.extend(held[name] for name in names if name in held and name not in outputs)
    session = open_session(tapped, "exact", threads=ranks.threads())
    inner = [name for name in names if name in held]
    for batch in ranks.mine(batches):
        try:
            found = session.run(inner, dict(batch)) if inner else []
        except Exception as error:  # ONNX Runtime's own exceptions share no base class
            raise RequestError(f"calibration: the graph does not run on it: {in_a_line(error)}") from None
        yield from zip(inner, found, strict=True)
        yield from ((name, batch[name]) for name in names if name not in held)  # type: ignore[misc]


def _clipped(whole: Range, widest: float, counts: Counts, threshold: Callable[[Counts], int]) -> Range:
    if not widest:
        return whole
    limit = threshold(counts) * widest / BINS
    return Range(max(whole.low, -limit), min(whole.high, limit))


def _percentile(counts: Counts, percentile: float) -> int:
    """Bins that hold the share of the values."""
    return int(np.searchsorted(counts.cumsum(), counts.sum() * percentile / 100)) + 1


def _entropy(counts: Counts) -> int:
    """Bins below the threshold with the least divergence.

    The first bin holds the zeros of every Relu, which any grid keeps; they would outweigh all the rest, so it counts as
    much as the second (as in NVIDIA's pytorch-quantization).
    """
    counts = np.concatenate([counts[1:2], counts[1:]])
    tried = range(LEVELS, BINS + 1, STRIDE)
    return min(tried, key=lambda bins: _divergence(counts, bins)) if counts.any() else BINS


def _divergence(counts: Counts, bins: int) -> float:
    """KL(P || Q): P the first `bins`, all beyond added to the last; Q the same in LEVELS, spread over what P has."""
    inside = counts[:bins].astype(np.float64)
    P = inside.copy()
    P[-1] += counts[bins:].sum()
    level = np.arange(bins) * LEVELS // bins
    spoken = inside > 0
    held = np.bincount(level, inside, LEVELS)
    places = np.bincount(level, spoken, LEVELS)
    Q = np.where(spoken, held[level] / np.maximum(places[level], 1), 0)
    P, Q = P / P.sum(), Q / max(Q.sum(), 1)
    both = P > 0
    return float(np.sum(P[both] * np.log(P[both] / np.maximum(Q[both], 1e-12))))
