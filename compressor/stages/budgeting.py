"""A recipe's budget becomes bits and groups for each weight: sensitivities, the trade-off curve, a point on it.

bits: 4.25                the best allocation whose weights, as the package stores them, take no more
max_ppl_increase: 0.02    the smallest one whose weights, rounded, raise the perplexity of the calibration text by
                          no more; the solver then does better than rounding. Found by bisection along the curve
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from compressor import catalog
from compressor.data.calibration import Windows
from compressor.errors import RequestError
from compressor.graph.decoder import IDS, Decoder, DecoderSession, Feeds
from compressor.graph.session import open_session
from compressor.progress import Track
from compressor.quantize import sensitivity
from compressor.quantize.budget import Option, Tradeoff
from compressor.quantize.flow.linears import Linear
from compressor.quantize.machine import ranks
from compressor.quantize.qtensor import PER_CHANNEL, Choice, Grid
from compressor.quantize.rtn import RoundToNearest
from compressor.recipe import formats
from compressor.recipe.methods import Gptq, OnGrid, Rtn
from compressor.recipe.recipe import Recipe
from compressor.stages import preparing
from compressor.validate import perplexity

MEASURED_TOKENS = 8192  # of the calibration text, for each allocation that is tried
GROUPS = (128, 64, 32)  # besides the recipe's own: a group of 32 costs 1 bit in float32 scales, one of 128 a quarter
SCALE_BITS, HALF_SCALE_BITS = 32, 16


@dataclass(frozen=True)
class Allocation:
    """A choice for each weight, and what the report says about how it was found."""

    choices: Mapping[str, Choice]
    facts: Mapping[str, Any]


def allocate(
    model: ir.Model, linears: Sequence[Linear], recipe: Recipe, batches: Sequence[Feeds], track: Track
) -> Allocation:
    """Choose bits and groups for each weight. Raises: RequestError when the budget cannot be met."""
    budget, method = recipe.quantize.budget, recipe.quantize.method
    assert budget is not None  # the caller's reason to call
    assert isinstance(method, OnGrid)  # held by compressor.recipe.impossible
    grid, _ = preparing.grid(recipe, model)
    losses = sensitivity.measure(
        model,
        linears,
        lambda linear: candidates(recipe, method, linear.shape),
        lambda bits: replace(grid, bits=bits),
        batches,
        track,
    )
    curve = _tradeoff(linears, losses, recipe)
    if budget.bits is not None:
        chosen = curve.within(budget.bits)
    else:
        rounding = _Rounding(model, linears, grid, batches)
        limit = rounding.perplexity(None) * (1 + float(budget.max_ppl_increase or 0))
        chosen = curve.smallest(lambda one: rounding.perplexity(one) <= limit)
    (chosen, *_) = ranks.gathered(chosen)  # all go by what the first has measured
    used = curve.bits_per_weight(chosen)
    if budget.bits is not None and used > budget.bits:
        raise RequestError(f"quantize.budget.bits: {budget.bits:g} cannot be met; the smallest choice takes {used:.4g}")
    asked = budget.model_dump(exclude_none=True)
    facts = {"asked": asked, "bits_per_weight": used, "tradeoff": curve.table()}
    return Allocation({name: option.choice for name, option in chosen.items()}, facts)


def _tradeoff(linears: Sequence[Linear], losses: Mapping[str, Mapping[Choice, float]], recipe: Recipe) -> Tradeoff:
    """What every choice costs and loses, for every weight."""
    by_name = {linear.name: linear for linear in linears}
    options = {
        name: [Option(choice, _size(recipe, by_name[name], choice), loss) for choice, loss in one.items()]
        for name, one in losses.items()
    }
    return Tradeoff(options, sum(rows * columns for rows, columns in (linear.shape for linear in linears)))


def candidates(recipe: Recipe, method: Rtn | Gptq, shape: tuple[int, int]) -> list[Choice]:
    """The bits and groups that the format holds, the target runs and the weight's shape fits."""
    form = catalog.FORMATS[recipe.format]
    own = () if method.group_size == "tensor" else (int(method.group_size),)
    sizes = sorted({*own, *(size for size in GROUPS if size < shape[0])}, reverse=True)
    found = [
        Choice(bits, size)
        for bits in form.cells
        for size in (*sizes, PER_CHANNEL)
        if not any(formats.refusals(recipe.target, recipe.format, formats.Settings("", bits, size, recipe.scheme)))
        and not formats.misfit(recipe.target, recipe.format, shape, bits, size)
    ]
    if not found:
        raise RequestError(f"a weight of {shape[0]} x {shape[1]} fits no grid of {recipe.format}; exclude it")
    return list(dict.fromkeys(found))


def _size(recipe: Recipe, linear: Linear, choice: Choice) -> int:
    """Bits of cells, scales and zero points, as the package stores them."""
    form, (rows, columns) = catalog.FORMATS[recipe.format], linear.shape
    cell = catalog.FORMATS["qdq"].cells[choice.bits] if linear.window else form.cells[choice.bits]
    groups = -(-rows // choice.group_size) if choice.group_size > 0 else 1
    zero = cell if recipe.scheme == "zero_point" else 0
    scale = HALF_SCALE_BITS if form.half_scales else SCALE_BITS
    return rows * columns * cell + groups * columns * (scale + zero)


class _Rounding:
    """The model with its weights rounded to an allocation, and its perplexity on the calibration text."""

    def __init__(self, model: ir.Model, linears: Sequence[Linear], grid: Grid, batches: Sequence[Feeds]) -> None:
        sizes = Decoder.of(model)
        if sizes is None:
            raise RequestError("quantize.budget.max_ppl_increase: the graph is no decoder; name budget.bits instead")
        ids = np.concatenate([batch[IDS] for batch in batches])[: max(1, MEASURED_TOKENS // batches[0][IDS].shape[1])]
        self._windows = Windows(ids.astype(np.int64), np.ones(ids.shape, np.int64))
        self._model, self._linears, self._grid, self._sizes = model, linears, grid, sizes

    def perplexity(self, allocation: Mapping[str, Option] | None) -> float:
        """Of the allocation; of the float weights where it is None."""
        with self._rounded(allocation or {}):
            session = open_session(self._model, "served")
        return perplexity.of(DecoderSession(self._sizes, session), self._windows)

    @contextlib.contextmanager
    def _rounded(self, allocation: Mapping[str, Option]) -> Iterator[None]:
        kept = {linear: linear.weight.const_value for linear in self._linears if linear.name in allocation}
        for linear in kept:
            choice = allocation[linear.name].choice
            solver = RoundToNearest(replace(self._grid, bits=choice.bits), choice.group_size)
            weight = solver.solve(linear.read()).dequantize()
            linear.weight.const_value = ir.Tensor(linear.stored(weight), name=linear.weight.name)
        try:
            yield
        finally:
            for linear, value in kept.items():
                linear.weight.const_value = value
