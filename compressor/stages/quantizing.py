"""Method by method: who quantizes a graph's weights, and in which form they are packed.

on a grid      rtn, gptq               a QTensor for each linear  ->  a format of `catalog.FORMATS`
own operator   dynamic, llm_int8       a QTensor of 8 bits        ->  integer products
               nf4, fp4                codes of a code book       ->  MatMulBnb4
rewriter       static_qdq              the graph, as it is served
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import onnx_ir as ir
import torch

from compressor import catalog
from compressor.artifact import MODEL, Artifact
from compressor.data import samples
from compressor.data.samples import Samples
from compressor.errors import RequestError
from compressor.graph.decoder import Feeds
from compressor.graph.session import load_model, save_model
from compressor.progress import Track
from compressor.quantize import decompose, embeddings, solve, stacks, store
from compressor.quantize.flow.linears import Linear
from compressor.quantize.llm_int8 import LlmInt8 as Decomposition
from compressor.quantize.machine import fused, ranks
from compressor.quantize.qtensor import Choice
from compressor.quantize.rewriters.rewritten import refuse_quantized
from compressor.recipe import formats
from compressor.recipe.methods import Codebook, Gptq, LlmInt8, OnGrid, Rtn
from compressor.recipe.recipe import Recipe
from compressor.stages import budgeting, preparing, raising
from compressor.stages.preparing import weights

T = TypeVar("T")
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Work:
    """The layer table, what was left alone and why, and what fell back."""

    rows: Rows
    left_alone: Mapping[str, str]
    fallbacks: tuple[str, ...] = ()
    budget: Mapping[str, Any] = field(default_factory=dict)  # facts of how bits and groups were chosen
    prepared: Rows = field(default_factory=list)  # what was scaled or rotated before
    calibrated_on: Mapping[str, Any] = field(default_factory=dict)  # where the data came from, and which of it


@dataclass(frozen=True)
class Packed:
    """A graph as it is served, how its codes are stored, and the bytes of each weight where they were counted."""

    model: ir.Model
    stored: str
    weight_bytes: Mapping[str, int]


def quantize(optimized: Artifact, recipe: Recipe, folder: Path, track: Track) -> Work:
    """Quantize by the recipe's method into `folder`; of several graphs, each into a folder of its own there.

    Raises: RequestError for a graph that is quantized already or has nothing to quantize, and for data that does not
    fit it.
    """
    if len(optimized.views) > 1 and recipe.quantize.budget:
        raise RequestError(f"quantize.budget: {optimized.directory} holds several graphs, a budget is for one; name it")
    stored = optimized.facts.get("stored")
    if stored in catalog.FORMATS and catalog.FORMATS[stored].checkpoint:
        raise RequestError(f"{optimized.directory}: quantized already ({stored} checkpoint); name the float graph")
    if recipe.quantize.embeddings:
        _refuse_without_tables(optimized)
    works = {view.part: _quantize_graph(view, recipe, folder / view.part, track) for view in optimized.views}
    return works[""] if "" in works else _together(works)


def get_ready(nbytes: int) -> None:
    """Compile what every method is faster with, where so many bytes of a graph, if float32, are weights enough."""
    if nbytes >= torch.float32.itemsize * solve.WORTH_ROUNDED:
        fused.prepare()


def named(by_layer: Mapping[str, T], part: str) -> dict[str, T]:
    """What is known of layers, under names that tell the graph where there are several."""
    return {f"{part}/{name}" if part else name: value for name, value in by_layer.items()}


def _together(works: Mapping[str, Work]) -> Work:
    """The work on several graphs as one table, each row with its graph."""
    rows = [row | {"graph": part} for part, work in works.items() for row in work.rows]
    left_alone = {name: why for part, work in works.items() for name, why in named(work.left_alone, part).items()}
    fallbacks = tuple(f"{part}: {line}" for part, work in works.items() for line in work.fallbacks)
    data = {part: work.calibrated_on for part, work in works.items() if work.calibrated_on}
    prepared = [row | {"graph": part} for part, work in works.items() for row in work.prepared]
    return Work(rows, left_alone, fallbacks, prepared=prepared, calibrated_on=data)


def _quantize_graph(optimized: Artifact, recipe: Recipe, folder: Path, track: Track) -> Work:
    folder.mkdir(exist_ok=True)
    model = _opened(optimized.model, recipe)
    refuse_quantized(model, optimized.model)
    data = None
    if recipe.quantize.calibrated:
        data = samples.calibrating(recipe.calibration, model, optimized.directory, recipe.images)
    try:
        done = preparing.prepare_graph(model, recipe, data.batches if data else (), track)
        if recipe.quantize.prepared and recipe.quantize.name not in catalog.REWRITERS and ranks.leads():
            save_model(model, folder / MODEL)  # what the packed graph will differ from by its codes alone
        work = _rewrite if recipe.quantize.name in catalog.REWRITERS else _solve
        made = work(model, recipe, data, folder, track)
        facts = data.facts | ({"ranks": ranks.count()} if ranks.count() > 1 else {}) if data else {}
        return replace(made, prepared=done, calibrated_on=facts)
    except RequestError as error:
        raise RequestError(f"{optimized.model}: {error}") from error


def _opened(path: Path, recipe: Recipe) -> ir.Model:
    """The float graph with room for codes, its stacks of matrices taken apart; a checkpoint holds them as they are."""
    model = raising.with_room_for_codes(load_model(path), path, recipe)
    if not catalog.FORMATS[recipe.format].checkpoint:
        stacks.unstack(model)
    return model


def package(optimized: Artifact, quantized: Artifact, recipe: Recipe) -> Packed:
    """Graph and quantized weights -> the graph that the engine loads."""
    folder = quantized.directory / optimized.part
    if recipe.quantize.name in catalog.REWRITERS:
        return Packed(load_model(folder / MODEL), "pairs around operators, weights as codes", {})
    model = load_model(folder / MODEL) if recipe.quantize.prepared else _opened(optimized.model, recipe)
    linears, _ = weights(model, recipe)
    tensors, method = store.Reader(folder), recipe.quantize.method
    if isinstance(method, OnGrid):
        form = catalog.FORMATS[recipe.format]
        own = {"accuracy_level": recipe.package.accuracy_level} if recipe.format == "matmulnbits" else {}
        used = sorted({row["bits"] for row in quantized.facts["layers"]})
        stored = ", ".join([recipe.format, *(f"{bits}-bit codes in {form.cells[bits]}-bit cells" for bits in used)])
        packed = dict(catalog.resolve(form.where)(model, linears, tensors.read, **own))
        if recipe.quantize.embeddings:
            tables = embeddings.find_tables(model)
            packed |= catalog.resolve(catalog.TABLES[recipe.format])(model, tables, tensors.read, **own)
        if recipe.target == "cpu":  # where it was measured
            catalog.resolve(catalog.PACKING)()(model)
        return Packed(model, stored, packed)
    write = catalog.resolve(catalog.OWN_FORMAT[recipe.quantize.name])
    if isinstance(method, Codebook):
        return Packed(model, "matmulbnb4, 4-bit words", write(model, linears, tensors.read_codebook))
    rows = [row for row in quantized.facts["layers"] if row.get("graph", "") == optimized.part]
    outliers = _outliers(rows, linears, recipe)
    return Packed(model, "matmulinteger, int8", write(model, linears, tensors.read, outliers, recipe.target))


def describe(recipe: Recipe) -> str:
    """The method with what shapes its numbers, in a line."""
    options, name, method = recipe.quantize, recipe.quantize.name, recipe.quantize.method
    if not isinstance(method, OnGrid):
        fields = method.model_dump(exclude_none=True, exclude_defaults=True)
        return ", ".join([*options.prepared, name, *(f"{field} {value}" for field, value in fields.items())])
    group = {-1: "per channel", "tensor": "per tensor"}.get(method.group_size, f"groups of {method.group_size}")
    grid = "bits and groups by budget" if options.budget else f"{method.bits} bits, {group}"
    return ", ".join([*options.prepared, name, grid, recipe.scheme])


def _solve(model: ir.Model, recipe: Recipe, data: Samples | None, folder: Path, track: Track) -> Work:
    """A quantized tensor for each linear, one file each."""
    linears, left_alone = weights(model, recipe)
    if not linears:
        why = [f"{name} {reason}" for name, reason in left_alone.items()] or ["no product with a constant matrix"]
        more = f", and {len(why) - 1} more" if len(why) > 1 else ""
        raise RequestError(f"no weight to quantize; {why[0]}{more}")
    method, batches = recipe.quantize.method, list(data.batches) if data else []
    if isinstance(method, LlmInt8):
        return Work(_decompose(model, linears, method, batches, folder, track), left_alone)
    own, facts = dict[str, Choice](), dict[str, Any]()
    if recipe.quantize.budget:
        allocation = budgeting.allocate(model, linears, recipe, batches, track)
        own, facts = dict(allocation.choices), dict(allocation.facts)
    elif isinstance(method, OnGrid):
        _refuse_misfits(linears, recipe, method)
    rows = _round(model, linears, recipe, batches, own, folder, track)
    if recipe.quantize.embeddings:
        rows += _round_tables(model, recipe, recipe.quantize.embeddings, folder)
        left_alone |= embeddings.misfits(model)
    return Work(rows, left_alone, budget=facts)


def _decompose(
    model: ir.Model, linears: list[Linear], method: LlmInt8, batches: list[Feeds], folder: Path, track: Track
) -> Rows:
    """Outlier columns apart, the rest in 8 bits."""
    decomposition = Decomposition(method.threshold, at_run_time=method.outliers == "dynamic")
    if batches:
        return decompose.with_outliers(model, linears, decomposition, batches, folder=folder, track=track)
    return decompose.without_data(linears, decomposition, folder=folder, track=track)


def _round(
    model: ir.Model,
    linears: list[Linear],
    recipe: Recipe,
    batches: list[Feeds],
    own: dict[str, Choice],
    folder: Path,
    track: Track,
) -> Rows:
    """Each weight on its grid or to the words of a book. own: the bits and the group of those that have their own."""
    method, solver = recipe.quantize.method, _solver(recipe)
    if isinstance(method, Gptq):
        return solve.with_data(
            model, linears, solver, batches, folder=folder, track=track, own=own, correction=method.correction
        )
    if isinstance(method, Rtn) and method.scale_search == "weighted":
        return solve.weighted(model, linears, solver, batches, folder=folder, track=track, own=own)
    return solve.without_data(linears, solver, recipe.quantize.name, folder=folder, track=track, own=own)


def _round_tables(model: ir.Model, recipe: Recipe, bits: int, folder: Path) -> Rows:
    """Tables of embeddings, on the grid of the weights but for their own bits; no data flows through them."""
    whole, _ = preparing.grid(recipe)
    grid = replace(whole, bits=bits, scale_search=True, carried=False)
    return embeddings.round_tables(embeddings.find_tables(model), grid, folder)


def _rewrite(model: ir.Model, recipe: Recipe, data: Samples | None, folder: Path, track: Track) -> Work:
    """A quantized graph, from a method that writes one."""
    rewrite = catalog.resolve(catalog.REWRITERS[recipe.quantize.name])
    batches, padding = samples.unpadded(data.batches, model) if data else ([], [])
    made = rewrite(model, recipe.quantize.method, recipe.target, recipe.quantize.exclude, batches, track)
    if ranks.leads():
        save_model(made.model, folder / MODEL)
    return Work(made.rows, made.left_alone, (*padding, *made.fallbacks))


def _refuse_misfits(linears: Sequence[Linear], recipe: Recipe, method: OnGrid) -> None:
    """Say before the work what the package will not hold."""
    for linear in linears:
        reason = formats.misfit(recipe.target, recipe.format, linear.shape, method.bits, method.group_size)
        if reason:
            raise RequestError(f"{linear.name}: {reason}; choose another group_size or exclude it")


def _solver(recipe: Recipe) -> Any:
    """The solver that a method names, with its grid or its book."""
    options, method = recipe.quantize, recipe.quantize.method
    if isinstance(method, Codebook):
        return catalog.resolve(catalog.CODEBOOK)(options.name, method.block_size)
    if isinstance(method, Gptq):
        own: dict[str, Any] = {"damping": method.damping, "act_order": method.act_order}
    else:
        own = {"weighted": isinstance(method, Rtn) and method.scale_search == "weighted"}
    solver = catalog.SOLVERS["gptq" if isinstance(method, Gptq) else "rtn"]
    return catalog.resolve(solver)(*preparing.grid(recipe), **own)


def _refuse_without_tables(optimized: Artifact) -> None:
    """One graph of several has to have one: an encoder of sound has none, and its decoder has."""
    if not any(embeddings.find_tables(load_model(view.model)) for view in optimized.views):
        raise RequestError(
            f"{optimized.directory}: quantize.embeddings: no Gather of a constant matrix of "
            f"{min(embeddings.GROUPS)} columns or a multiple; leave it out"
        )


def _outliers(rows: Rows, linears: list[Linear], recipe: Recipe) -> dict[str, Any]:
    """For each weight the columns that stay float, the threshold they are found by at run time, or None."""
    method = recipe.quantize.llm_int8
    if method is None:
        return dict.fromkeys((linear.name for linear in linears), None)
    if method.outliers == "dynamic":
        return dict.fromkeys((linear.name for linear in linears), method.threshold)
    return {row["layer"]: row["outliers"] for row in rows}
