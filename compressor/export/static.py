"""Free axes made static, and the shapes that an engine is built for.

    fix(path, {"batch_size": 1})    input_ids [batch_size, sequence_length]  ->  [1, sequence_length]
    profile(model, longest)         {"input_ids": {"min": [1, 1], "opt": [1, 128], "max": [8, 512]}}

TensorRT builds an engine for a range of shapes, best at `opt`; a graph without free axes needs no range.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import onnx_ir as ir

from compressor.errors import RequestError
from compressor.graph.session import load_model
from compressor.recipe.suggestion import suggestion


class Range(NamedTuple):
    """Sizes of one axis: the least, the one to be fastest at, the most."""

    least: int
    best: int
    most: int


# Axis -> its range where the model's configuration does not say more; `past` may be empty.
RANGES = {
    "sequence_length": Range(1, 128, 512),
    "encoder_sequence_length": Range(1, 128, 512),
    "past_sequence_length": Range(0, 128, 512),
    "total_sequence_length": Range(1, 256, 1024),
    "height": Range(32, 224, 512),
    "width": Range(32, 224, 512),
}
OF_ROWS = Range(1, 1, 8)  # batch_size and its kin
SOUND = Range(400, 16_000, 480_000)  # samples of raw sound: one window, a second, half a minute at 16 kHz
PAST, SEQUENCE, TOTAL = "past_sequence_length", "sequence_length", "total_sequence_length"
TERM = re.compile(r"[A-Za-z_]\w*")


def fix(path: Path, sizes: Mapping[str, int], longest: int | None = None) -> dict[str, dict[str, list[int]]]:
    """Write sizes in place of a file's named axes, everywhere, and return the profile of those that stay free.

    The weights stay where they lie. longest: tokens that the model can read.
    """
    model = load_model(path)
    if {PAST, SEQUENCE} <= sizes.keys():
        sizes = {TOTAL: sizes[PAST] + sizes[SEQUENCE], **sizes}  # the axis of a decoder's mask
    if sizes:
        for value in _values(model):
            if value.shape is not None:
                value.shape = ir.Shape([size if isinstance(size, int) else _put(size, sizes) for size in value.shape])
        ir.save(model, path)
    return profile(model, longest)


def refuse_unknown(sizes: Mapping[str, int], known: Iterable[str]) -> None:
    """Raises: RequestError for an axis that no graph has."""
    names = sorted(known)
    for name in sorted(sizes.keys() - set(names)):
        hint = suggestion(name, names, f"The free axes are {', '.join(names) or 'none'}")
        raise RequestError(f"export.static: no input has an axis '{name}'. {hint}")


def axes(model: ir.Model) -> list[str]:
    """Names of the free axes of a graph's inputs."""
    named = (str(size) for value in model.graph.inputs for size in value.shape or () if not isinstance(size, int))
    return list(dict.fromkeys(named))


def profile(model: ir.Model, longest: int | None = None) -> dict[str, dict[str, list[int]]]:
    """Least, best and largest shape of every input that has a free axis; `longest`: tokens that the model can read."""
    found = {}
    for value in model.graph.inputs:
        shape = list(value.shape or ())
        if all(isinstance(size, int) for size in shape):
            continue
        ranges = [Range(size, size, size) if isinstance(size, int) else _range(str(size), str(value.name), longest)
                  for size in shape]  # fmt: skip
        found[str(value.name)] = {label: [one[at] for one in ranges] for at, label in enumerate(("min", "opt", "max"))}
    return found


def _range(axis: str, value: str, longest: int | None) -> Range:
    if value == "input_values" and axis == "sequence_length":
        return SOUND
    least, best, most = RANGES.get(axis, OF_ROWS)
    most = longest if longest and axis.endswith("sequence_length") else most
    return Range(least, min(best, most), most)


def _put(size: ir.SymbolicDim, sizes: Mapping[str, int]) -> int | str | None:
    """`past_sequence_length + sequence_length` with what is known put in; a number where all of it is."""
    text = str(size)
    if size.value is None:
        return None
    known = TERM.sub(lambda found: str(sizes.get(found[0], found[0])), text)
    return _sum(known) if not TERM.search(known) else known


def _sum(text: str) -> int:
    """`2*3 + 4` -> 10; axes are named in sums of products alone."""
    total = 0
    for term in text.split("+"):
        product = 1
        for factor in term.split("*"):
            product *= int(factor)
        total += product
    return total


def _values(model: ir.Model) -> Iterator[ir.Value]:
    yield from model.graph.inputs
    for node in model.graph.all_nodes():
        yield from node.outputs
