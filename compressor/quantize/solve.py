"""Where solvers and graph meet: every linear gets its QTensor, one group at a time, and a row in the layer table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor

from compressor.decoder import Feeds
from compressor.progress import Track
from compressor.quantize import store
from compressor.quantize.gptq import Gptq, NotPositiveDefiniteError
from compressor.quantize.graph import Flow, Linear, segments
from compressor.quantize.qtensor import QTensor
from compressor.quantize.rtn import RoundToNearest
from compressor.quantize.statistics import SecondMoment

# Output columns on which a layer's error is measured, evenly spread: the error of solver and rounding is a sum over
# columns, and 128 of them tell the two apart at a fraction of the cost of the solve.
ERROR_COLUMNS = 128
# Rounding and solver meet where inputs are white; below this share the difference is arithmetic, not loss.
WORSE_BY = 1.001


def with_data(
    model: ir.Model,
    linears: Sequence[Linear],
    solver: Gptq,
    batches: Sequence[Feeds],
    *,
    folder: Path,
    track: Track,
) -> list[dict[str, Any]]:
    """Solve group after group while the calibration data flows through the graph. Returns the layer table."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    flow = Flow(batches, dtype=product_dtype(device), device=device)
    rows = []
    for segment in track(segments(model, linears), "gptq"):
        moment = SecondMoment(segment.width, device)
        for x in flow.run(segment):
            moment.add(x)
        group = _Group.of(solver, moment)
        weights = [linear.read().to(device) for linear in segment.linears]
        side_by_side = group.solve(torch.cat(weights, 1))
        tensors = side_by_side.split([weight.shape[1] for weight in weights])
        for linear, weight, tensor in zip(segment.linears, weights, tensors, strict=True):
            store.write(folder, linear.name, tensor)
            rows.append(group.row(linear, weight, tensor))
        flow.resume(segment, [tensor.dequantize() for tensor in tensors])
    return rows


def without_data(
    linears: Sequence[Linear], solver: RoundToNearest, *, folder: Path, track: Track
) -> list[dict[str, Any]]:
    """Round every linear by itself. Returns the layer table."""
    rows = []
    for linear in track(linears, "rtn"):
        weight = linear.read()
        tensor = solver.solve(weight)
        store.write(folder, linear.name, tensor)
        power = float(weight.square().sum())
        error = float((tensor.dequantize() - weight).square().sum()) / power if power else 0.0
        rows.append(_row(linear, tensor) | {"weight_error": _number(error), "flags": _flags(tensor, worse=False)})
    return rows


def product_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where matrix units multiply it (AMX, CUDA), four times as fast; float32 elsewhere.

    Calibration bears it: inputs are rounded to 8 bits of mantissa; their statistics are computed in float32.
    """
    fast = device.type == "cuda" or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if fast else torch.float32


@dataclass(frozen=True)
class _Group:
    """Linears that share an input: one second moment, one factorisation; `fallback` when there is none."""

    solver: Gptq
    moment: Tensor
    factorised: Any
    fallback: str

    @classmethod
    def of(cls, solver: Gptq, gathered: SecondMoment) -> _Group:
        moment = gathered.value()
        try:
            factorised = solver.factorise(moment)
        except NotPositiveDefiniteError as error:
            return cls(solver, moment, None, f"rounded, {error}")
        retried = factorised.damping != solver.damping
        return cls(solver, moment, factorised, f"damping raised to {factorised.damping:g}" if retried else "")

    def solve(self, weight: Tensor) -> QTensor:
        rounding = RoundToNearest(self.solver.grid, self.solver.group_size)
        return self.factorised.solve(weight) if self.factorised else rounding.solve(weight)

    def row(self, linear: Linear, weight: Tensor, tensor: QTensor) -> dict[str, Any]:
        """Relative output errors, trace(E^T H E) / trace(W^T H W), of the solver and of rounding to the same grid."""
        step = -(-weight.shape[1] // ERROR_COLUMNS)
        W, solved = weight[:, ::step], tensor.every(step)
        rounded = RoundToNearest(self.solver.grid, self.solver.group_size).solve(W)
        power = _energy(self.moment, W)
        error, rounding = (
            _energy(self.moment, W - Q.dequantize()) / power if power else 0.0 for Q in (solved, rounded)
        )
        return _row(linear, tensor) | {
            "error": _number(error),
            "rounding_error": _number(rounding),
            "damping": self.factorised.damping if self.factorised else None,
            "silent_inputs": int((self.moment.diagonal() == 0).sum()),
            "fallback": self.fallback,
            "flags": _flags(tensor, worse=error > rounding * WORSE_BY),
        }


def _row(linear: Linear, tensor: QTensor) -> dict[str, Any]:
    rows, columns = tensor.shape
    return {
        "layer": linear.name,
        "in": rows,
        "out": columns,
        "bits": tensor.bits,
        "group_size": tensor.group_size,
        "bits_per_weight": round(tensor.bits_per_weight, 3),
        "fallback": "",
    }


def _flags(tensor: QTensor, *, worse: bool) -> list[str]:
    """Why a layer needs a look: a solver that does harm, a packed constant, a number that is none."""
    seen = {
        "not finite": not bool(tensor.scale.isfinite().all()),
        "constant": bool((tensor.q == tensor.q[0, 0]).all()),
        "worse than rounding": worse,
    }
    return [name for name, present in seen.items() if present]


def _number(value: float) -> float | None:
    """None where it is none, for JSON has no other word for it."""
    return value if math.isfinite(value) else None


def _energy(moment: Tensor, matrix: Tensor) -> float:
    """trace(M^T H M): what a matrix adds up to on the data."""
    return float((matrix * (moment @ matrix)).sum())
