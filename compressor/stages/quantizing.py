"""Every graph of an artifact by the recipe's method: opened, prepared, quantized, and told as one table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import onnx_ir as ir

from compressor import catalog
from compressor.artifact import MODEL, Artifact
from compressor.data import samples
from compressor.errors import RequestError
from compressor.graph.session import load_model, save_model
from compressor.progress import Track
from compressor.quantize import embeddings
from compressor.quantize.machine import ranks
from compressor.quantize.rewriters.rewritten import refuse_quantized
from compressor.recipe.recipe import Recipe
from compressor.stages import methods, preparing
from compressor.stages.methods import Task, Work

T = TypeVar("T")
IDLE = "no product with a weight of its own has an input whose factor can be folded into what makes it"


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
    left_bytes = {name: size for part, work in works.items() for name, size in named(work.left_bytes, part).items()}
    return Work(rows, left_alone, fallbacks, left_bytes, prepared=prepared, calibrated_on=data)


def _quantize_graph(optimized: Artifact, recipe: Recipe, folder: Path, track: Track) -> Work:
    folder.mkdir(exist_ok=True)
    model = preparing.opened(optimized.model, recipe)
    refuse_quantized(model, optimized.model)
    data = None
    if recipe.quantize.calibrated:
        data = samples.calibrating(recipe.calibration, model, optimized.directory, recipe.images)
    try:
        done = preparing.prepare_graph(model, recipe, data.batches if data else (), track)
        if recipe.quantize.prepared and recipe.quantize.name not in catalog.REWRITERS and ranks.leads():
            save_model(model, folder / MODEL)  # what the packed graph will differ from by its codes alone
        made = methods.work(Task(model, recipe, data, folder, track))
        facts = data.facts | ({"ranks": ranks.count()} if ranks.count() > 1 else {}) if data else {}
        idle = [name for name in recipe.quantize.prepared if not any(row["method"] == name for row in done)]
        return replace(
            made,
            fallbacks=(*made.fallbacks, *(f"{name} changed nothing: {IDLE}" for name in idle)),
            left_bytes=_bytes(model, made.left_alone),
            prepared=done,
            calibrated_on=facts,
        )
    except RequestError as error:
        raise RequestError(f"{optimized.model}: {error}") from error


def _bytes(model: ir.Model, names: Iterable[str]) -> dict[str, int]:
    """What those of the names that are weights of a graph take."""
    held = {name: model.graph.initializers[name].const_value for name in names if name in model.graph.initializers}
    return {name: tensor.nbytes for name, tensor in held.items() if tensor is not None}


def _refuse_without_tables(optimized: Artifact) -> None:
    """One graph of several has to have one: an encoder of sound has none, and its decoder has."""
    if not any(embeddings.find_tables(load_model(view.model)) for view in optimized.views):
        raise RequestError(
            f"{optimized.directory}: quantize.embeddings: no Gather of a constant matrix of "
            f"{min(embeddings.GROUPS)} columns or a multiple; leave it out"
        )
