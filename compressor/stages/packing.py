"""Graph and quantized weights -> the graph that an engine loads.

rtn, gptq             a format of `catalog.FORMATS`
dynamic, llm_int8     integer products
nf4, fp4              MatMulBnb4
static_qdq, none      the graph, as its method wrote it
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from compressor import catalog
from compressor.artifact import MODEL, Artifact
from compressor.graph.session import load_model, save_model
from compressor.package import matmulbnb4, matmulinteger
from compressor.package.matmulinteger import Outliers
from compressor.quantize import embeddings, store
from compressor.quantize.flow.linears import Linear
from compressor.quantize.machine import memory, threads
from compressor.recipe.methods import Codebook, Dynamic, Gptq, Keep, LlmInt8, OnGrid, Rtn, StaticQdq
from compressor.recipe.recipe import Recipe
from compressor.stages.preparing import opened, weights


@dataclass(frozen=True)
class Packed:
    """A graph as it is served, how its codes are stored, and the bytes of each weight where they were counted."""

    model: ir.Model
    stored: str
    weight_bytes: Mapping[str, int]

    def write(self, path: Path) -> None:
        """Codes are laid out as they are written, a thread to each weight."""
        at_once = threads.at_once()
        with threads.one_thread(), memory.freed_memory_kept():
            save_model(self.model, path, at_once)


def pack(optimized: Artifact, quantized: Artifact, recipe: Recipe) -> Packed:
    """One graph of an artifact, with its weights in the form that its method has."""
    folder, method = quantized.directory / optimized.part, recipe.quantize.method
    if isinstance(method, StaticQdq | Keep):
        return Packed(load_model(folder / MODEL), "pairs around operators, weights as codes", {})
    model = load_model(folder / MODEL) if recipe.quantize.prepared else opened(optimized.model, recipe)
    layers = [row for row in quantized.facts["layers"] if row.get("graph", "") == optimized.part]
    done = {row["layer"] for row in layers}  # a checkpoint's, as a graph, leaves more float than a graph's own
    linears = [linear for linear in weights(model, recipe)[0] if linear.name in done]
    tensors = store.Reader(folder)
    match method:
        case Rtn() | Gptq():
            return _in_format(model, linears, tensors, recipe, {row["bits"] for row in layers})
        case Codebook():
            packed = matmulbnb4.replace_linears(model, linears, tensors.read_codebook)
            return Packed(model, "matmulbnb4, 4-bit words", packed)
        case LlmInt8() | Dynamic():
            outliers = _outliers(method, layers)
            packed = matmulinteger.replace_linears(model, linears, tensors.read, outliers, recipe.target)
            return Packed(model, "matmulinteger, int8", packed)


def _in_format(model: ir.Model, linears: list[Linear], tensors: store.Reader, recipe: Recipe, used: set[int]) -> Packed:
    """Codes on a grid, in the format that the recipe names."""
    form = catalog.FORMATS[recipe.format]
    own = {"accuracy_level": recipe.package.accuracy_level} if recipe.format == "matmulnbits" else {}
    packed = dict(catalog.resolve(form.where)(model, linears, tensors.read, **own))
    if recipe.quantize.embeddings:
        tables = embeddings.find_tables(model)
        packed |= catalog.resolve(catalog.TABLES[recipe.format])(model, tables, tensors.read, **own)
    if recipe.target == "cpu":  # where it was measured
        catalog.resolve(catalog.PACKING)()(model)
    cells = (f"{bits}-bit codes in {form.cells[bits]}-bit cells" for bits in sorted(used))
    return Packed(model, ", ".join([recipe.format, *cells]), packed)


def _outliers(method: LlmInt8 | Dynamic, rows: list[dict[str, Any]]) -> dict[str, Outliers]:
    """For each weight the columns that stay float, the threshold they are found by at run time, or None."""
    match method:
        case Dynamic():
            return {row["layer"]: None for row in rows}
        case LlmInt8(outliers="dynamic"):
            return {row["layer"]: method.threshold for row in rows}
        case LlmInt8():
            return {row["layer"]: row["outliers"] for row in rows}


def describe(recipe: Recipe) -> str:
    """The method with what shapes its numbers, in a line."""
    options, name, method = recipe.quantize, recipe.quantize.name, recipe.quantize.method
    if not isinstance(method, OnGrid):
        fields = method.model_dump(exclude_none=True, exclude_defaults=True)
        return ", ".join([*options.prepared, name, *(f"{field} {value}" for field, value in fields.items())])
    group = {-1: "per channel", "tensor": "per tensor"}.get(method.group_size, f"groups of {method.group_size}")
    grid = "bits and groups by budget" if options.budget else f"{method.bits} bits, {group}"
    return ", ".join([*options.prepared, name, grid, recipe.scheme])
