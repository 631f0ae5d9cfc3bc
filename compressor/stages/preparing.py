"""What is done to the float graph before its weights are rounded: it computes what it did, and rounds better.

rotations      outliers spread over all channels, before anything is scaled
awq            inputs of rtn and gptq scaled, so that loud ones get a finer grid
smoothquant    activations made even for static_qdq and dynamic
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir
from onnx_ir.passes.common import LiftConstantsToInitializersPass

from compressor import catalog
from compressor.graph.decoder import Feeds
from compressor.graph.session import load_model
from compressor.progress import Track
from compressor.quantize import prepare, rotation, stacks
from compressor.quantize.flow.linears import Linear, find_linears
from compressor.quantize.qtensor import PER_CHANNEL, PER_TENSOR, Grid
from compressor.quantize.rtn import RoundToNearest
from compressor.recipe.methods import Dynamic, Gptq, OnGrid
from compressor.recipe.recipe import Recipe
from compressor.stages import raising


def opened(path: Path, recipe: Recipe) -> ir.Model:
    """The float graph with room for codes, its weights as initializers, its stacks of matrices taken apart."""
    model = raising.with_room_for_codes(load_model(path), path, recipe)
    LiftConstantsToInitializersPass()(model)
    stacks.unstack(model)
    return model


def prepare_graph(model: ir.Model, recipe: Recipe, batches: Sequence[Feeds], track: Track) -> list[dict[str, Any]]:
    """Everything that the recipe asks for, in place. Returns a row for each change that was made."""
    options, rows = recipe.quantize, list[dict[str, Any]]()
    if options.rotations is not None:
        rows += rotation.rotate(model, untie=options.rotations.untie, seed=options.rotations.seed)
    linears, _ = weights(model, recipe)
    if options.awq is not None:
        rounding = RoundToNearest(*grid(recipe, model))
        rows += prepare.scale_for_weights(model, linears, rounding, batches, track)
    if options.smoothquant is not None:
        rows += prepare.scale_for_activations(model, linears, options.smoothquant.alpha, batches, track)
    return rows


def weights(model: ir.Model, recipe: Recipe) -> tuple[list[Linear], dict[str, str]]:
    """The weights that the method quantizes."""
    return find_linears(model, recipe.quantize.exclude, convolutions=recipe.convolutions)


def grid(recipe: Recipe, model: ir.Model) -> tuple[Grid, int]:
    """The grid and the group of a method that has one; a graph of half precision stores its scales so too."""
    method = recipe.quantize.method
    if isinstance(method, Dynamic):
        return Grid(7 if method.reduce_range else 8, "absmax"), PER_CHANNEL if method.per_channel else PER_TENSOR
    assert isinstance(method, OnGrid)  # the others decompose, rewrite or read a book
    held = (value.const_value for value in model.graph.initializers.values())
    half = catalog.FORMATS[recipe.format].half_scales or any(one and one.dtype == ir.DataType.FLOAT16 for one in held)
    size = PER_TENSOR if method.group_size == "tensor" else method.group_size
    return Grid(method.bits, recipe.scheme, bool(method.scale_search), half, isinstance(method, Gptq)), size
