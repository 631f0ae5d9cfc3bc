"""Where solvers and graph meet: every linear gets its QTensor, one group at a time, and a row in the layer table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import onnx_ir as ir
import torch
from torch import Tensor

from compressor.graph.decoder import Feeds
from compressor.progress import Track
from compressor.quantize import store, target
from compressor.quantize.codebook import Codebook, CodebookTensor
from compressor.quantize.flow import moments, shared
from compressor.quantize.flow.flow import Flow, product_dtype
from compressor.quantize.flow.linears import Linear
from compressor.quantize.flow.segments import Segment, segments
from compressor.quantize.gptq import Factorised, Gptq, NotPositiveDefiniteError, damped
from compressor.quantize.machine import compiled, fused, ranks
from compressor.quantize.machine.memory import freed_memory_kept
from compressor.quantize.machine.threads import a_weight_each, at_once
from compressor.quantize.qtensor import Choice, QTensor, side_by_side
from compressor.quantize.rtn import RoundToNearest
from compressor.quantize.statistics import column_step, energy, proportion

S = TypeVar("S", Gptq, RoundToNearest)
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
    own: Mapping[str, Choice] = MappingProxyType({}),
    correction: float = 0.0,
) -> list[dict[str, Any]]:
    """Solve group after group while the calibration data flows through the graph. Returns the layer table.

    own: weights that are quantized to bits and groups of their own instead of the solver's. correction: how far they
    are solved toward the float model's outputs (`target.py`), for which the data flows through the float weights too.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    _compile(linears, compiled.WORTH_SOLVED)
    begin = partial(Flow, batches, dtype=product_dtype(device), device=device)
    several = shared.joined(model, linears, begin, partial(moments.gather, device=device), torch.add, track)
    flow, exact = begin(), begin() if correction else None
    again = dict[str, QTensor]()  # weights that later products read too

    def solved(segment: Segment) -> list[dict[str, Any]]:
        """The segment's rows. A function, so that nothing of it is held while the data flows to the next."""
        moment = moments.gather(flow, segment, device)
        drift = moments.drift(flow, exact, segment, device) if exact else None
        fresh = [linear for linear in segment.weights if linear.name not in again]
        inputs = dict.fromkeys(linear.inputs for linear in fresh)
        groups = {one: _Group.of(solver, several.get(one, moment)) for one in inputs}
        made, found = dict(again), dict[str, dict[str, Any]]()
        for linears_alike in _alike(fresh, own):
            group = groups[linears_alike[0].inputs].to(own.get(linears_alike[0].name))
            weight = torch.cat([linear.read().to(device) for linear in linears_alike], 1)
            if drift is not None and linears_alike[0].others:
                group = group.uncorrected("several products read it")
            elif drift is not None:
                weight, group = group.corrected(weight, drift, correction)
            tensors = group.solve(weight).split(columns := [linear.shape[1] for linear in linears_alike])
            for linear, tensor, wanted in zip(linears_alike, tensors, torch.split(weight, columns, 1), strict=True):
                store.write(folder, linear.name, tensor)
                made[linear.name], found[linear.name] = tensor, group.row(linear, wanted, tensor)
        again.update({linear.name: made[linear.name] for linear in fresh if linear.others})
        flow.resume(segment, [made[linear.name].dequantize() for linear in segment.linears])
        if exact:
            exact.resume(segment, [linear.read() for linear in segment.linears])
        return [found[linear.name] for linear in fresh]

    return [row for segment in track(segments(model, linears), "gptq") for row in solved(segment)]


def without_data(
    linears: Sequence[Linear],
    solver: RoundToNearest | Codebook,
    method: str,
    *,
    folder: Path,
    track: Track,
    own: Mapping[str, Choice] = MappingProxyType({}),
) -> list[dict[str, Any]]:
    """Round every linear by itself, under the name of the method. Returns the layer table; `own` as in `with_data`."""

    def rounded(linear: Linear) -> dict[str, Any]:
        weight = linear.read()
        tensor = (solver if isinstance(solver, Codebook) else at(solver, own.get(linear.name))).solve(weight)
        store.write(folder, linear.name, tensor)
        W, some = weight, tensor
        if isinstance(tensor, QTensor):  # a code book's blocks run across columns
            step = column_step(weight.shape[1])
            W, some = weight[:, ::step].contiguous(), tensor.every(step)
        error = proportion(float((some.dequantize() - W).square().sum()), float(W.square().sum()))
        return _row(linear, tensor) | {"weight_error": error, "flags": _flags(tensor, worse=False)}

    _compile(linears, compiled.WORTH_ROUNDED)
    with freed_memory_kept(), a_weight_each() as pool:
        work = [pool.submit(rounded, linear) for linear in linears]
        return [one.result() for one in track(work, method)]


def weighted(
    model: ir.Model,
    linears: Sequence[Linear],
    solver: RoundToNearest,
    batches: Sequence[Feeds],
    *,
    folder: Path,
    track: Track,
    own: Mapping[str, Choice] = MappingProxyType({}),
) -> list[dict[str, Any]]:
    """Round every linear to the scales that its inputs' squares ask for. Returns the layer table; `own` as above."""
    begin = partial(Flow, batches, dtype=torch.float32, device=torch.device("cpu"))
    several, flow = shared.joined(model, linears, begin, _power, torch.add, track), begin()
    again, rows = dict[str, QTensor](), []
    for segment in track(segments(model, linears), "rtn, weighted"):
        here, made = _power(flow, segment), dict(again)
        for linear in segment.weights:
            if linear.name in again:
                continue
            power = several.get(linear.inputs, here).float()
            weight, fitted = linear.read(), at(solver, own.get(linear.name))
            tensors = [one.solve(weight, power) for one in (fitted, replace(fitted, weighted=False))]
            store.write(folder, linear.name, tensors[0])
            made[linear.name] = tensors[0]
            whole, lost, plain = (
                float((one.square() * power[:, None]).sum(dtype=torch.float64))
                for one in (weight, *(tensor.dequantize() - weight for tensor in tensors))
            )
            found = {"error": proportion(lost, whole), "rounding_error": proportion(plain, whole)}
            rows.append(_row(linear, tensors[0]) | found | {"flags": _flags(tensors[0], worse=lost > plain)})
        again |= {linear.name: made[linear.name] for linear in segment.linears if linear.others}
        flow.resume(segment, [made[linear.name].dequantize() for linear in segment.linears])
    return rows


def _power(flow: Flow, segment: Segment) -> Tensor:
    """Run a segment; the sum of squares of each column of its x over the batches of all ranks, float64 [in]."""
    squares = (x.square().sum(0, dtype=torch.float64) for x in flow.run(segment))
    return ranks.total(sum(squares, torch.zeros(segment.width, dtype=torch.float64)))


def _compile(linears: Sequence[Linear], worth: int) -> None:
    if sum(math.prod(linear.shape) for linear in linears) >= worth:
        fused.prepare()


def at(solver: S, choice: Choice | None) -> S:
    """The same solver on a grid of other bits and groups."""
    if choice is None:
        return solver
    return replace(solver, grid=replace(solver.grid, bits=choice.bits), group_size=choice.group_size)


@dataclass(frozen=True)
class _Group:
    """Linears that share an input: one second moment, one factorisation; `fallback` when there is none."""

    solver: Gptq
    moment: Tensor
    factorised: Factorised | None
    fallback: str

    @classmethod
    def of(cls, solver: Gptq, moment: Tensor) -> _Group:
        if not bool(moment.diagonal().any()):
            return cls(solver, moment, None, "rounded, its input is zero on all of the data")
        try:
            factorised = solver.factorise(moment)
        except NotPositiveDefiniteError as error:
            return cls(solver, moment, None, f"rounded, {error}")
        retried = factorised.damping != solver.damping
        return cls(solver, moment, factorised, f"damping raised to {factorised.damping:g}" if retried else "")

    def to(self, choice: Choice | None) -> _Group:
        """The same inputs, to be solved on another grid: the factors of the moment do not depend on it."""
        if choice is None:
            return self
        solver = at(self.solver, choice)
        factorised = replace(self.factorised, solver=solver) if self.factorised else None
        return replace(self, solver=solver, factorised=factorised)

    def corrected(self, weight: Tensor, drift: Tensor, share: float) -> tuple[Tensor, _Group]:
        """What the weight is solved toward, and the group that says so."""
        if self.factorised is None:
            return weight, self
        aim = target.corrected(weight, damped(self.moment, self.factorised.damping), drift, share)
        return (weight, self.uncorrected("its inputs' drift is not finite")) if aim is None else (aim, self)

    def uncorrected(self, why: str) -> _Group:
        """The same, solved toward the weights as they are though a correction was asked for."""
        return replace(self, fallback="; ".join(filter(None, (self.fallback, f"not corrected, {why}"))))

    def solve(self, weight: Tensor) -> QTensor:
        """The weight [in, out] on its grid; no column knows of another: ranks, and their threads, share them out."""
        solver = self.factorised or RoundToNearest(self.solver.grid, self.solver.group_size)
        share = weight[:, ranks.share(weight.shape[1])]
        parts = ranks.gathered(solver.solve(share) if share.is_cuda else _by_threads(solver, share))
        return parts[0] if len(parts) == 1 else side_by_side(parts).to(weight.device)

    def row(self, linear: Linear, weight: Tensor, tensor: QTensor) -> dict[str, Any]:
        """Relative output errors, trace(E^T H E) / trace(W^T H W), of the solver and of rounding to the same grid."""
        step = column_step(weight.shape[1])
        W, solved = weight[:, ::step], tensor.every(step)
        rounded = RoundToNearest(self.solver.grid, self.solver.group_size).solve(W)
        power = energy(self.moment, W)
        lost, plain = (energy(self.moment, W - Q.dequantize()) for Q in (solved, rounded))
        return _row(linear, tensor) | {
            "error": proportion(lost, power),
            "rounding_error": proportion(plain, power),
            "damping": self.factorised.damping if self.factorised else None,
            "silent_inputs": int((self.moment.diagonal() == 0).sum()),
            "fallback": self.fallback,
            "flags": _flags(tensor, worse=lost > plain * WORSE_BY),
        }


def _by_threads(solver: Factorised | RoundToNearest, weight: Tensor) -> QTensor:
    """A weight on the CPU, its columns shared out among as many threads as torch has."""
    columns = torch.split(weight, -(-weight.shape[1] // at_once()), 1)
    with a_weight_each() as pool:
        return side_by_side(list(pool.map(solver.solve, columns)))


def _alike(linears: Sequence[Linear], own: Mapping[str, Choice]) -> list[list[Linear]]:
    """Linears by all that they are multiplied by and the grid they go to: they are solved side by side."""
    found: dict[Any, list[Linear]] = {}
    for linear in linears:
        found.setdefault((linear.inputs, bool(linear.others), own.get(linear.name)), []).append(linear)
    return list(found.values())


def _row(linear: Linear, tensor: QTensor | CodebookTensor) -> dict[str, Any]:
    rows, columns = tensor.shape
    return {
        "layer": linear.name,
        "in": rows,
        "out": columns,
        "bits": tensor.bits,
        "group_size": tensor.group_size,
        "fallback": "",
    }


def _flags(tensor: QTensor | CodebookTensor, *, worse: bool) -> list[str]:
    """Why a layer needs a look: a solver that does harm, a packed constant, a number that is none."""
    seen = {
        "not finite": not bool(tensor.scale.isfinite().all()),
        "constant": bool((tensor.q[0] == tensor.q[0, 0]).all()) and bool((tensor.q == tensor.q[0, 0]).all()),
        "worse than rounding": worse,
    }
    return [name for name, present in seen.items() if present]
