"""Which settings a package format can carry and a target can run; said before a model is opened.

refusals("tensorrt", "qdq", "gptq", bits=4, group_size=32, scheme="absmax")
->  ("quantize.gptq.group_size", "tensorrt runs 4 bits in groups of 64, 128; not 32")
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from compressor import catalog

Refusal = tuple[tuple[str, ...], str]  # the place in the recipe, and why it cannot be
Group = int | str


class Weights(NamedTuple):
    """What a target takes for weights of at most `bits` bits."""

    groups: tuple[Group, ...]
    schemes: tuple[str, ...]


# TensorRT 10: symmetric only; int4 in blocks of 64 or 128, int8 per channel or per tensor.
# Source: NVIDIA, docs/deeplearning/tensorrt, "Working with quantized types".
TENSORRT = {8: Weights((-1, "tensor"), ("absmax",)), 4: Weights((64, 128), ("absmax",))}
RULES = {"tensorrt": TENSORRT}


class Settings(NamedTuple):
    """The grid that a method of a recipe asks for."""

    method: str
    bits: int
    group_size: Group
    scheme: str


def refusals(target: str, form: str, asked: Settings) -> Iterator[Refusal]:
    """Every setting that the format cannot carry or the target cannot run."""
    entry = catalog.FORMATS[form]
    if target not in entry.targets:
        yield ("package", "format"), f"{form} does not run on target {target}; it runs on {_listed(entry.targets)}"
    if asked.bits not in entry.cells:
        yield _place(asked, "bits"), f"a {form} package holds {_listed(entry.cells)} bits, not {asked.bits}"
    if asked.group_size not in entry.groups:
        text = f"a {form} package holds groups of {_listed(entry.groups)}, not {asked.group_size}"
        yield _place(asked, "group_size"), text
    if entry.checkpoint and asked.scheme == "symmetric":
        text = f"a {form} package holds scales above zero: absmax or zero_point, not symmetric"
        yield _place(asked, "scheme"), text
    rules = RULES.get(target, {})
    cell = min((cell for cell in rules if asked.bits <= cell), default=None)
    if cell is None:
        return
    groups, schemes = rules[cell]
    if asked.group_size not in groups:
        text = f"{target} runs {asked.bits} bits in groups of {_listed(groups)}, not {asked.group_size}"
        yield _place(asked, "group_size"), text
    if asked.scheme not in schemes:
        yield _place(asked, "scheme"), f"{target} runs {_listed(schemes)}, not {asked.scheme}"


def scheme_of(target: str, form: str) -> str:
    """The most accurate grid around zero that a package and its target hold."""
    return "absmax" if catalog.FORMATS[form].checkpoint or target in RULES else "symmetric"


def misfit(target: str, form: str, shape: tuple[int, int], bits: int, group_size: Group) -> str:
    """Why a weight (in, out) has no place in a package; empty when it has one. Known once the model is open."""
    entry, (rows, columns) = catalog.FORMATS[form], shape
    whole = isinstance(group_size, int) and group_size > 0 and rows % group_size
    if whole and (entry.checkpoint or target in RULES):
        return f"{rows} inputs are no multiple of the group of {group_size}"
    cells = 32 // entry.cells[bits]
    if entry.checkpoint and rows % cells:
        return f"{rows} inputs are no multiple of {cells}, which {form} packs into a word"
    if form == "gptq" and columns % cells:
        return f"{columns} outputs are no multiple of {cells}, which gptq packs into a word"
    if target == "tensorrt" and entry.cells[bits] == 4 and columns % 2:
        return f"{columns} outputs are odd, and tensorrt reads int4 in pairs"
    return ""


def _place(asked: Settings, field: str) -> tuple[str, ...]:
    """Where the recipe says it."""
    return ("quantize", asked.method, field)


def _listed(values: Iterable[object]) -> str:
    return ", ".join(str(value) for value in values)
