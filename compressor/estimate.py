"""What a run will cost, read off the headers of the weights before any of them is loaded.

    disk   graph and weights that a stage leaves behind
    peak   resident memory: libraries + weights held at once + activations of the calibration

Rules of thumb, within about a third on models of 1 M to 1 B parameters; the report states what was measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from compressor import catalog
from compressor.package.shards import read_header
from compressor.recipe import PER_CHANNEL, OnGrid, Recipe
from compressor.sources import Source

FLOAT_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
LIBRARIES_BYTES = 600_000_000  # torch, transformers, onnxruntime and the interpreter, measured
GRAPH_BYTES = 300_000  # nodes and names of a small decoder
ACTIVATION_COPIES = 6  # of [tokens, hidden] float32: residual, input, and the widest MLP value


@dataclass(frozen=True)
class Weights:
    """Parameters of a checkpoint by the way they will be stored."""

    matrices: int
    others: int
    widest: int  # parameters of the largest matrix
    hidden: int


def costs(source: Source, recipe: Recipe) -> dict[str, tuple[int, int]]:
    """Stage -> (bytes on disk, peak bytes)."""
    weights = count(source, recipe)
    float_bytes = FLOAT_BYTES[recipe.export.dtype] * (weights.matrices + weights.others)
    method = recipe.quantize.method
    bits, size = (method.bits, method.group_size) if isinstance(method, OnGrid) else (8, PER_CHANNEL)
    cells = catalog.FORMATS[recipe.format].cells.get(bits, 8)
    group = weights.hidden if size in (PER_CHANNEL, "tensor") else int(size)
    budget = recipe.quantize.budget
    each = budget.bits / 8 if budget and budget.bits else cells / 8 + 4 / max(group, 1)
    packed = int(weights.matrices * each)
    tokens = recipe.calibration.samples * recipe.calibration.length if recipe.quantize.calibrated else 0
    activations = 4 * tokens * weights.hidden * ACTIVATION_COPIES
    working = 16 * weights.widest + activations
    return {
        "export": (float_bytes + GRAPH_BYTES, LIBRARIES_BYTES + 2 * float_bytes),
        "optimize": (float_bytes + GRAPH_BYTES, LIBRARIES_BYTES + 2 * float_bytes),
        "quantize": (int(weights.matrices * (1 + 5 / max(group, 1))), LIBRARIES_BYTES + working),
        "package": (packed + 4 * weights.others + GRAPH_BYTES, LIBRARIES_BYTES + packed + 4 * weights.widest),
    }


def count(source: Source, recipe: Recipe) -> Weights:
    """Sort the tensors of a checkpoint by name and shape. Raises: RequestError when a header cannot be read."""
    matrices, others, widest, hidden = 0, 0, 0, 1
    if not source.weights:  # a pickle, a graph, a program: no header says what is in it
        return Weights(0, source.nbytes // FLOAT_BYTES["float32"], 0, 1)
    for name, stored in (pair for path in source.weights for pair in read_header(path).items()):
        shape, size = stored.shape, math.prod(stored.shape)
        quantized = len(shape) == 2 and "embed" not in name and not any(one in name for one in recipe.quantize.exclude)
        matrices, others = (matrices + size, others) if quantized else (matrices, others + size)
        widest = max(widest, size if quantized else 0)
        hidden = max(hidden, min(shape) if quantized else 1)
    return Weights(matrices, others, widest, hidden)
