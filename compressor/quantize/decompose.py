"""Where LLM.int8() and the graph meet: outlier columns of each input found while calibration data flows through it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor

from compressor.graph.decoder import Feeds
from compressor.progress import Track
from compressor.quantize import store
from compressor.quantize.flow import shared
from compressor.quantize.flow.flow import Flow
from compressor.quantize.flow.linears import Linear
from compressor.quantize.flow.segments import Segment, segments
from compressor.quantize.llm_int8 import LlmInt8
from compressor.quantize.machine import ranks
from compressor.quantize.qtensor import QTensor
from compressor.quantize.statistics import ColumnMaximum, proportion

# Tokens and output columns that a layer's two errors are measured on: they are sums over both, and this many tell
# them apart at a fraction of the cost of the products.
ERROR_TOKENS, ERROR_COLUMNS = 1024, 128


def with_outliers(
    model: ir.Model,
    linears: Sequence[Linear],
    method: LlmInt8,
    batches: Sequence[Feeds],
    *,
    folder: Path,
    track: Track,
) -> list[dict[str, Any]]:
    """Find the outliers of one input after another and store what is not. Returns the layer table."""
    begin = partial(Flow, batches, dtype=torch.float32, device=torch.device("cpu"))
    several = shared.joined(model, linears, begin, lambda *run: _observed(*run)[0], torch.maximum, track)
    flow = begin()
    rows: list[dict[str, Any]] = []
    again = dict[str, Tensor]()  # weights that later products read too
    for segment in track(segments(model, linears), "llm_int8"):
        (here, sample), made = _observed(flow, segment), dict(again)
        for linear in segment.weights:
            if linear.name in again:
                continue
            outliers = method.outliers(several.get(linear.inputs, here))
            weight = linear.read()
            tensor = method.solve(weight, outliers)
            store.write(folder, linear.name, tensor)
            rows.append(_row(linear, method, weight, tensor, outliers, sample))
            made[linear.name] = restored = tensor.dequantize()
            restored[outliers] = weight[outliers]
        again |= {linear.name: made[linear.name] for linear in segment.linears if linear.others}
        flow.resume(segment, [made[linear.name] for linear in segment.linears])
    return rows


def _observed(flow: Flow, segment: Segment) -> tuple[Tensor, Tensor]:
    """Run a segment; the largest of each column of its x over the batches of all ranks, and some rows of it."""
    largest, seen = ColumnMaximum(segment.width), list[Tensor]()
    for x in flow.run(segment):
        largest.add(x)
        if sum(len(one) for one in seen) < ERROR_TOKENS:
            seen.append(x.clone())
    return ranks.largest(largest.value), ranks.joined(seen)[:ERROR_TOKENS]


def without_data(linears: Sequence[Linear], method: LlmInt8, *, folder: Path, track: Track) -> list[dict[str, Any]]:
    """Store every weight whole; its outliers are found when it is multiplied. Returns the layer table."""
    rows = []
    for linear in track(linears, "llm_int8"):
        weight = linear.read()
        tensor = method.solve(weight, [])
        store.write(folder, linear.name, tensor)
        error = _lost(weight.double(), tensor.dequantize().double())
        rows.append(_stored(linear, tensor, []) | {"weight_error": error})
    return rows


def _row(
    linear: Linear, method: LlmInt8, weight: Tensor, tensor: QTensor, outliers: list[int], x: Tensor
) -> dict[str, Any]:
    """Relative output errors, |X W - Y|^2 / |X W|^2, with the decomposition and without it."""
    step = -(-weight.shape[1] // ERROR_COLUMNS)
    W, plain = weight[:, ::step], LlmInt8(float("inf"))
    exact = x.double() @ W.double()
    error = _lost(exact, method.product(x, W, tensor.every(step), outliers))
    without = _lost(exact, plain.product(x, W, plain.solve(W, []), []))
    return _stored(linear, tensor, outliers) | {"error": error, "error_without": without}


def _stored(linear: Linear, tensor: QTensor, outliers: list[int]) -> dict[str, Any]:
    rows, columns = tensor.shape
    return {
        "layer": linear.name,
        "in": rows,
        "out": columns,
        "outlier_columns": len(outliers),
        "outliers": outliers,
        "fallback": "",
        "flags": [] if bool(tensor.scale.isfinite().all()) else ["not finite"],
    }


def _lost(exact: Tensor, found: Tensor) -> float | None:
    return proportion(float((found - exact).square().sum()), float(exact.square().sum()))
