"""What `run` would do, by the keys it would use; nothing is computed and nothing written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from compressor import estimate, pipeline, sources
from compressor.recipe.recipe import Recipe
from compressor.shelf import refuse_strangers
from compressor.stages import keys


@dataclass(frozen=True)
class Step:
    """One stage of a plan: where it will lie, whether it is there, and about what it costs."""

    stage: str
    place: Path
    reused: bool
    disk_bytes: int
    peak_bytes: int


def plan(recipe: Recipe, output: Path, *, strict: bool = False) -> tuple[Step, ...]:
    """The stages of `run` in their order. Raises: RequestError where `run` would refuse before its first stage."""
    pipeline.refuse_remote_code(recipe, strict=strict)
    source = sources.find(recipe.model, remote_code=recipe.export.trust_remote_code)
    pipeline.refuse_for_target(recipe, source)
    refuse_strangers(output.absolute())
    shelf = pipeline.stages_beside(output)
    exported, _ = keys.export(source.sha256, recipe)
    optimized, _ = keys.optimize(exported, recipe)
    quantized, _ = keys.quantize(optimized, recipe)
    packaged, _ = keys.package(optimized, quantized, recipe)
    costs = estimate.costs(source, recipe)
    made = zip(pipeline.STAGES, (exported, optimized, quantized, packaged), strict=True)
    return tuple(
        Step(stage, shelf.place(stage, key), shelf.find(stage, key) is not None, *costs[stage]) for stage, key in made
    )
