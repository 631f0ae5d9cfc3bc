"""Sensitivity: what rounding one weight alone loses of its output on the calibration data, for each choice of grid.

    loss(W, choice) = trace(E^T H E) / trace(W^T H W)      E = W - rounded(W, choice),  H = second moment of the input

One pass: the data flows through the float weights, and each input's moment serves all choices of all weights that
read it. Rounding, not the solver, stands for the choice: it ranks grids the same and costs a hundredth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import onnx_ir as ir
import torch
from torch import Tensor

from compressor.graph.decoder import Feeds
from compressor.progress import Track
from compressor.quantize.flow import moments, shared
from compressor.quantize.flow.flow import Flow, product_dtype
from compressor.quantize.flow.linears import Linear
from compressor.quantize.flow.segments import segments
from compressor.quantize.qtensor import Choice, Grid
from compressor.quantize.rtn import RoundToNearest
from compressor.quantize.statistics import column_step, energy

Losses = dict[str, dict[Choice, float]]  # by weight and choice


def measure(
    model: ir.Model,
    linears: Sequence[Linear],
    choices: Callable[[Linear], Sequence[Choice]],
    grid: Callable[[int], Grid],
    batches: Sequence[Feeds],
    track: Track,
) -> Losses:
    """The loss of each weight at each of its choices; `grid` is the one of so many bits."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    begin = partial(Flow, batches, dtype=product_dtype(device), device=device)
    several = shared.joined(model, linears, begin, partial(moments.gather, device=device), torch.add, track)
    flow = begin()
    losses: Losses = {}
    for segment in track(segments(model, linears), "sensitivity"):
        here = moments.gather(flow, segment, device)
        weights = [linear.read().to(device) for linear in segment.linears]
        for linear, weight in zip(segment.linears, weights, strict=True):
            if linear.name in losses:
                continue
            moment = several.get(linear.inputs, here)
            kinds = {choice: RoundToNearest(grid(choice.bits), choice.group_size) for choice in choices(linear)}
            losses[linear.name] = {choice: _loss(moment, weight, solver) for choice, solver in kinds.items()}
        flow.resume(segment, weights)
    return losses


def _loss(moment: Tensor, weight: Tensor, solver: RoundToNearest) -> float:
    W = weight[:, :: column_step(weight.shape[1])]
    power = energy(moment, W)
    return energy(moment, W - solver.solve(W).dequantize()) / power if power else 0.0
