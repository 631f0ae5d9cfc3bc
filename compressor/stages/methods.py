"""What each method does to the weights of one graph, told by the type of its section in the recipe.

    rtn, gptq              a QTensor for each weight, on the grid that the recipe names or a budget chose
    dynamic                a QTensor of 8 bits; activations are rounded at run time
    llm_int8               the same, and the columns that stay float
    nf4, fp4               codes of a code book
    static_qdq, none       the graph, as it is served

A method of another type is one more case here, and one in `packing.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir

from compressor import catalog
from compressor.artifact import MODEL
from compressor.data import samples
from compressor.data.samples import Samples
from compressor.errors import RequestError
from compressor.graph.decoder import Feeds
from compressor.graph.session import save_model
from compressor.progress import Track
from compressor.quantize import decompose, embeddings, solve
from compressor.quantize.codebook import Codebook as Book
from compressor.quantize.flow.linears import Linear
from compressor.quantize.gptq import Gptq as GptqSolver
from compressor.quantize.llm_int8 import LlmInt8 as Decomposition
from compressor.quantize.machine import ranks
from compressor.quantize.qtensor import Choice
from compressor.quantize.rtn import RoundToNearest
from compressor.recipe import formats
from compressor.recipe.methods import Codebook, Dynamic, Gptq, Keep, LlmInt8, OnGrid, Rtn, StaticQdq
from compressor.recipe.recipe import Recipe
from compressor.stages import budgeting, preparing
from compressor.stages.preparing import weights

Rows = list[dict[str, Any]]
ByWeight = OnGrid | Dynamic | LlmInt8 | Codebook


@dataclass(frozen=True)
class Work:
    """The layer table, what was left alone and why, and what fell back."""

    rows: Rows
    left_alone: Mapping[str, str]
    fallbacks: tuple[str, ...] = ()
    left_bytes: Mapping[str, int] = field(default_factory=dict)  # of what was left alone, where it is a weight
    budget: Mapping[str, Any] = field(default_factory=dict)  # facts of how bits and groups were chosen
    prepared: Rows = field(default_factory=list)  # what was scaled or rotated before
    calibrated_on: Mapping[str, Any] = field(default_factory=dict)  # where the data came from, and which of it


@dataclass(frozen=True)
class Task:
    """One float graph, what is asked for, the data that it is seen on, and the folder that tensors go to."""

    model: ir.Model
    recipe: Recipe
    data: Samples | None
    folder: Path
    track: Track

    @property
    def batches(self) -> Sequence[Feeds]:
        return self.data.batches if self.data else ()


def work(task: Task) -> Work:
    """The graph by the method that its recipe names.

    Raises: RequestError where nothing can be quantized, or a weight does not fit the package.
    """
    recipe, method = task.recipe, task.recipe.quantize.method
    if isinstance(method, StaticQdq | Keep):
        return _rewrite(task)
    linears, left_alone = weights(task.model, recipe)
    if not linears:
        why = [f"{name}: {reason}" for name, reason in left_alone.items()] or ["no product with a constant matrix"]
        more = f", and {len(why) - 1} more" if len(why) > 1 else ""
        raise RequestError(f"no weight to quantize; {why[0]}{more}")
    choices, facts = _choices(task, linears)
    rows = _rows(task, method, linears, choices)
    if recipe.quantize.embeddings:
        rows += _round_tables(task, recipe.quantize.embeddings)
        left_alone |= embeddings.misfits(task.model)
    return Work(rows, left_alone, budget=facts)


def _rewrite(task: Task) -> Work:
    """A quantized graph, from a method that writes one."""
    options = task.recipe.quantize
    rewrite = catalog.resolve(catalog.REWRITERS[options.name])
    batches, padding = samples.unpadded(task.data.batches, task.model) if task.data else ([], [])
    made = rewrite(task.model, options.method, task.recipe.target, options.exclude, batches, task.track)
    if ranks.leads():
        save_model(made.model, task.folder / MODEL)
    return Work(made.rows, made.left_alone, (*padding, *made.fallbacks))


def _choices(task: Task, linears: Sequence[Linear]) -> tuple[Mapping[str, Choice], Mapping[str, Any]]:
    """The bits and the group of each weight that has its own, and how a budget found them."""
    recipe, method = task.recipe, task.recipe.quantize.method
    if recipe.quantize.budget:
        allocation = budgeting.allocate(task.model, linears, recipe, task.batches, task.track)
        return allocation.choices, allocation.facts
    if isinstance(method, OnGrid):
        for linear in linears:  # said before the work
            if reason := formats.misfit(recipe.target, recipe.format, linear.shape, method.bits, method.group_size):
                raise RequestError(f"{linear.name}: {reason}; choose another group_size or exclude it")
    return {}, {}


def _rows(task: Task, method: ByWeight, linears: Sequence[Linear], own: Mapping[str, Choice]) -> Rows:
    """A tensor for each weight, in the task's folder. Returns the layer table."""
    model, recipe, batches, folder, track = task.model, task.recipe, task.batches, task.folder, task.track
    name = recipe.quantize.name
    match method:
        case Codebook():
            return solve.without_data(linears, Book(name, method.block_size), name, folder=folder, track=track)
        case LlmInt8(outliers="dynamic"):
            decomposition = Decomposition(method.threshold, at_run_time=True)
            return decompose.without_data(linears, decomposition, folder=folder, track=track)
        case LlmInt8():
            decomposition = Decomposition(method.threshold)
            return decompose.with_outliers(model, linears, decomposition, batches, folder=folder, track=track)
    grid, group_size = preparing.grid(recipe, model)
    match method:
        case Gptq():
            solver, share = GptqSolver(grid, group_size, method.damping, method.act_order), method.correction
            return solve.with_data(
                model, linears, solver, batches, folder=folder, track=track, own=own, correction=share
            )
        case Rtn(scale_search="weighted"):
            weighted = RoundToNearest(grid, group_size, weighted=True)
            return solve.weighted(model, linears, weighted, batches, folder=folder, track=track, own=own)
        case Rtn() | Dynamic():
            plain = RoundToNearest(grid, group_size)
            return solve.without_data(linears, plain, name, folder=folder, track=track, own=own)


def _round_tables(task: Task, bits: int) -> Rows:
    """Tables of embeddings, on the grid of the weights but for their own bits; no data flows through them."""
    whole, _ = preparing.grid(task.recipe, task.model)
    grid = replace(whole, bits=bits, scale_search=True, carried=False)
    return embeddings.round_tables(embeddings.find_tables(task.model), grid, task.folder)
