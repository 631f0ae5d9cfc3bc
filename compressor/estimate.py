"""What a run will cost, read off the headers of the weights before any of them is loaded.

    disk   graph and weights that a stage leaves behind
    peak   memory that no file backs; mapped weights are the kernel's, which takes them back
           export     a weight at a time: widened, and turned. Torch's side of the proof holds a small model, and any
                      that cannot be mapped
           optimize   the weights that folding makes, once, and once more while the two forms are compared
           quantize   the widest matrix and its statistic, and activations of the calibration
           package    what is packed

Rules of thumb: the disk within about a third on models of 1 M to 1 B parameters, the peak within a factor of two. Seen:
export 1.15 GB and optimize 1.41 GB where 1.18 and 1.49 are said (142 M parameters), export of 6.7 B 1.34 GB where 1.40
is said. The report states what was measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from compressor import catalog
from compressor.package.shards import read_header
from compressor.recipe.methods import PER_CHANNEL, OnGrid
from compressor.recipe.recipe import Recipe
from compressor.sources import Source

FLOAT_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
FLOATS = frozenset({"F64", "F32", "F16", "BF16"})  # as safetensors names them
LIBRARIES_BYTES = 350_000_000  # torch, transformers, onnxruntime and the interpreter after a trace, measured
HELD_BELOW_BYTES = 1 << 30  # in float32: what torch's side of the proof holds; above, it maps (export/reference.py)
WORKED_ON_BYTES = 8  # of each parameter of the largest tensor: a copy in float32, and one that is turned
GRAPH_BYTES = 300_000  # nodes and names of a small decoder
ACTIVATION_COPIES = 6  # of [tokens, hidden] float32: residual, input, and the widest MLP value


@dataclass(frozen=True)
class Weights:
    """Parameters of a checkpoint by the way they will be stored."""

    matrices: int
    others: int
    widest: int  # parameters of the largest matrix
    hidden: int
    largest: int  # parameters of the largest tensor
    held: bool  # whether it has to be loaded: a pickle, or types that differ


class Cost(NamedTuple):
    """What a stage leaves on the disk, and what it holds in memory at its peak."""

    disk_bytes: int
    peak_bytes: int


def costs(source: Source, recipe: Recipe) -> dict[str, Cost]:
    """The cost of each stage by its name."""
    weights = count(source, recipe)
    float_bytes = FLOAT_BYTES[recipe.export.dtype] * (weights.matrices + weights.others)
    method = recipe.quantize.method
    bits, size = (method.bits, method.group_size) if isinstance(method, OnGrid) else (8, PER_CHANNEL)
    cells = catalog.FORMATS[recipe.format].cells.get(bits, 8)
    group = weights.hidden if size in (PER_CHANNEL, "tensor") else int(size)
    budget = recipe.quantize.budget
    each = budget.bits / 8 if budget and budget.bits else cells / 8 + 4 / max(group, 1)  # a group has a float32 scale
    packed = int(weights.matrices * each)
    tokens = recipe.calibration.samples * recipe.calibration.length if recipe.quantize.calibrated else 0
    activations = 4 * tokens * weights.hidden * ACTIVATION_COPIES
    working = 16 * weights.widest + activations
    return {
        "export": Cost(float_bytes + GRAPH_BYTES, _export_peak(weights, float_bytes)),
        "optimize": Cost(float_bytes + GRAPH_BYTES, LIBRARIES_BYTES + 2 * float_bytes),
        # a code takes a byte; a group has a scale and a zero point
        "quantize": Cost(int(weights.matrices * (1 + 5 / max(group, 1))), LIBRARIES_BYTES + working),
        "package": Cost(packed + 4 * weights.others + GRAPH_BYTES, LIBRARIES_BYTES + packed + 4 * weights.widest),
    }


def _export_peak(weights: Weights, float_bytes: int) -> int:
    whole = FLOAT_BYTES["float32"] * (weights.matrices + weights.others)
    held = whole if whole < HELD_BELOW_BYTES else float_bytes if weights.held else 0
    return LIBRARIES_BYTES + WORKED_ON_BYTES * weights.largest + held


def count(source: Source, recipe: Recipe) -> Weights:
    """Sort the tensors of a checkpoint by name and shape. Raises: RequestError when a header cannot be read."""
    matrices, others, widest, hidden, largest = 0, 0, 0, 1, 0
    if not source.weights:  # a pickle, a graph, a program: no header says what is in it
        return Weights(0, source.nbytes // FLOAT_BYTES["float32"], 0, 1, 0, held=True)
    types = set()
    for name, stored in (pair for path in source.weights for pair in read_header(path).items()):
        shape, size = stored.shape, math.prod(stored.shape)
        quantized = len(shape) == 2 and "embed" not in name and not any(one in name for one in recipe.quantize.exclude)
        matrices, others = (matrices + size, others) if quantized else (matrices, others + size)
        types |= {stored.dtype} if stored.dtype in FLOATS else set()
        widest, largest = max(widest, size if quantized else 0), max(largest, size)
        hidden = max(hidden, min(shape) if quantized else 1)
    return Weights(matrices, others, widest, hidden, largest, held=len(types) > 1)
