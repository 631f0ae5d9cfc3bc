"""Where AWQ, SmoothQuant and the graph meet: each input's statistics while data flows through the float weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor

from compressor.graph.decoder import Feeds
from compressor.progress import Track
from compressor.quantize import awq, smoothquant
from compressor.quantize.flow import moments
from compressor.quantize.flow.flow import Flow
from compressor.quantize.flow.linears import Linear
from compressor.quantize.flow.segments import Segment, segments
from compressor.quantize.machine import ranks
from compressor.quantize.rtn import RoundToNearest
from compressor.quantize.scaling import Pair, find_pairs
from compressor.quantize.statistics import ColumnMaximum, proportion

SAMPLE_TOKENS = 1024  # that SmoothQuant's error is measured on
_DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
Row = dict[str, Any]
Search = Callable[[Sequence[Tensor], Flow, Segment], tuple[Tensor, Row]]


def scale_for_weights(
    model: ir.Model, linears: Sequence[Linear], rounding: RoundToNearest, batches: Sequence[Feeds], track: Track
) -> list[Row]:
    """AWQ in place, for a grid that weights will be rounded to. Returns a row for each input that can be scaled."""

    def search(weights: Sequence[Tensor], flow: Flow, segment: Segment) -> tuple[Tensor, Row]:
        moment = moments.gather(flow, segment, _DEVICE)
        magnitude, tokens = torch.zeros(segment.width, dtype=torch.float64, device=_DEVICE), 0
        for x in flow.again(segment):
            magnitude += x.abs().sum(0, dtype=torch.float64)
            tokens += len(x)
        mean = (ranks.total(magnitude) / sum(ranks.gathered(tokens))).float()
        found = awq.search(weights, moment, mean, lambda weight: rounding.solve(weight).dequantize())
        return found.scale, {"alpha": found.alpha, "error_ratio": _ratio(found.error, found.plain_error)}

    return _scale(model, linears, search, batches, track, "awq")


def scale_for_activations(
    model: ir.Model, linears: Sequence[Linear], alpha: float | None, batches: Sequence[Feeds], track: Track
) -> list[Row]:
    """SmoothQuant in place. Returns a row for each input that can be scaled."""

    def search(weights: Sequence[Tensor], flow: Flow, segment: Segment) -> tuple[Tensor, Row]:
        largest, seen = ColumnMaximum(segment.width, _DEVICE), list[Tensor]()
        for x in flow.run(segment):
            largest.add(x)
            if sum(len(one) for one in seen) < SAMPLE_TOKENS:
                seen.append(x.clone())
        sample = ranks.joined(seen)[:SAMPLE_TOKENS]
        found = smoothquant.search(weights, sample, ranks.largest(largest.value), alpha)
        return found.scale, {"alpha": found.alpha, "error_ratio": _ratio(found.error, found.plain_error)}

    return _scale(model, linears, search, batches, track, "smoothquant")


def _scale(
    model: ir.Model, linears: Sequence[Linear], search: Search, batches: Sequence[Feeds], track: Track, name: str
) -> list[Row]:
    """Find every factor on the graph as it is, then fold them all."""
    alone = [one for one in linears if not one.others]  # a factor that suits one input suits no other
    pairs = {pair.linears[0].x: pair for pair in find_pairs(alone)}
    flow = Flow(batches, dtype=torch.float32, device=_DEVICE)
    found: list[tuple[Pair, Tensor]] = []
    rows = []
    for segment in track(segments(model, linears), name):
        weights, pair = [linear.read().to(_DEVICE) for linear in segment.linears], pairs.get(segment.x)
        if pair is not None and segment.window is None:
            scale, row = search(weights, flow, segment)
            found.append((pair, scale))
            rows.append({"method": name, "input": pair.name, "weights": [one.name for one in pair.linears], **row})
        else:
            for _ in flow.run(segment):
                pass
        flow.resume(segment, weights)
    for pair, scale in found:
        pair.scale(model.graph, scale)
    return rows


def _ratio(error: float, plain: float) -> float | None:
    return proportion(error, plain) if plain else 1.0
