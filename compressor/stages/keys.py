"""The keys of the stages: what a stage's result depends on, hashed. Equal keys, equal bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compressor import artifact, catalog, sources
from compressor.artifact import Artifact
from compressor.data import corpus, pairs
from compressor.graph import encoder_decoder
from compressor.graph.encoder_decoder import ENCODER
from compressor.graph.session import load_model
from compressor.recipe.recipe import Recipe
from compressor.stages import optimizing

Keyed = tuple[str, dict[str, Any]]  # the key of a stage, and the options that shape it


def export(source_sha256: str, recipe: Recipe) -> Keyed:
    options = recipe.export.model_dump(mode="json")
    return artifact.key("export", source_sha256, options), options


def optimize(exported: str, recipe: Recipe) -> Keyed:
    return optimizing.key(exported, recipe)


def quantize(optimized: str, recipe: Recipe, encoder: Mapping[str, str] | None = None) -> Keyed:
    """A solver that looks at data depends on it: on the options that choose it, on the file itself, on its encoder."""
    options: dict[str, Any] = {"quantize": recipe.quantize.model_dump(mode="json", exclude_none=True)}
    options["scheme"] = recipe.scheme
    form = catalog.FORMATS[recipe.format]
    options |= {"half_scales": form.half_scales, "convolutions": recipe.convolutions}
    if recipe.quantize.prepared:
        options["format"] = recipe.format  # the graph that is kept has the opset that its weights need
    if recipe.quantize.budget is not None:
        options |= {"format": recipe.format, "target": recipe.target}  # bits are chosen by what they take there
    if recipe.quantize.name in catalog.REWRITERS:
        options["target"] = recipe.target
    if not recipe.quantize.calibrated:
        return artifact.key("quantize", optimized, options), options
    options["calibration"] = recipe.calibration.model_dump(mode="json")
    options["images"] = recipe.images.model_dump(mode="json")
    text = corpus.fingerprint(recipe.calibration.source)
    return artifact.key("quantize", optimized, options, text, *([encoder] if encoder else [])), options


def encoder_beside(optimized: Artifact, recipe: Recipe) -> dict[str, str]:
    """What a decoder is calibrated with that its own key does not cover, as that of a bare file: name -> SHA-256."""
    encoder = optimized.directory / ENCODER
    if not recipe.quantize.calibrated or ENCODER in optimized.manifest["files"] or not encoder.is_file():
        return {}
    reads = any(encoder_decoder.states(load_model(path)) for path in optimized.models)
    return pairs.encoder_files(optimized.directory) if reads else {}


def package(optimized: str, quantized: str, recipe: Recipe) -> Keyed:
    """The scales of an 8-bit cache depend on text, a checkpoint on the one that it fills in."""
    options = recipe.package.model_dump(mode="json") | {"format": recipe.format, "target": recipe.target}
    if recipe.package.checkpoint is not None:
        options["checkpoint"] = sources.find(recipe.package.checkpoint).sha256
    if not recipe.package.calibrated:
        return artifact.key("package", optimized, quantized, options), options
    options["calibration"] = recipe.calibration.model_dump(mode="json")
    text = corpus.fingerprint(recipe.calibration.source)
    return artifact.key("package", optimized, quantized, options, text), options
