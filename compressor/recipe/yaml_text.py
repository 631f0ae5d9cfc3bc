"""YAML text -> plain values and the line each was written in.

    a:            {("a",): "x.yaml:1",
      - 1    ->    ("a", 0): "x.yaml:2"}, {"a": [1]}

A recipe is read safely (no tags make objects), a key that stands twice is refused, and 1e-3 is a number.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Any

import yaml

from compressor.errors import RecipeError, in_a_line

Place = tuple[str | int, ...]
MOST_PLACES = 10_000  # nine lines of anchors, each ten times the one before, are a thousand million


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads 1e-3 as text, for want of a dot; here it is a number."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def read(text: str, origin: str) -> tuple[dict[str, Any], dict[Place, str]]:
    """The values, and `origin:line` of each place.

    Raises: RecipeError where the text is no YAML, no mapping, or says a key twice.
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if next(itertools.islice(_lines(root), MOST_PLACES, None), None):
            raise RecipeError([f"{origin}:1: stands for more than {MOST_PLACES} values; its anchors repeat each other"])
        if faults := list(_faulty_keys(root, origin)):
            raise RecipeError(faults)
        data = yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise RecipeError([f"{origin}:{line}: not YAML: {error.problem}"]) from None
    except yaml.YAMLError as error:
        raise RecipeError([f"{origin}:1: not YAML: {in_a_line(error)}"]) from None
    except RecursionError:
        raise RecipeError([f"{origin}:1: nests too deep, or an anchor holds itself"]) from None
    if not isinstance(root, yaml.MappingNode):
        raise RecipeError([f"{origin}:1: a recipe is a mapping of sections, beginning with `model:`"])
    return data, {place: f"{origin}:{line}" for place, line in _lines(root)}


def override(data: dict[str, Any], text: str) -> Place:
    """Write one `a.b.c=value` into the data and return its place.

    Raises: RecipeError.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip("."):
        raise RecipeError([f"--set {text}: write it as section.field=value, e.g. quantize.gptq.bits=3"])
    *sections, field = key.split(".")
    for section in sections:
        if data.get(section) is None:
            data[section] = {}
        if not isinstance(data[section], dict):
            raise RecipeError([f"--set {text}: '{section}' is a value and has no fields"])
        data = data[section]
    try:
        data[field] = yaml.load(value, _Loader)
    except yaml.YAMLError:
        raise RecipeError([f"--set {text}: the value is not YAML"]) from None
    return (*sections, field)


def _lines(node: yaml.Node | None, place: Place = ()) -> Iterator[tuple[Place, int]]:
    """Every place of a YAML tree with its line, counted from 1; a key's line stands for its value."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = (*place, key.value)
            yield inner, key.start_mark.line + 1
            yield from _lines(value, inner)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield (*place, index), value.start_mark.line + 1
            yield from _lines(value, (*place, index))


def _faulty_keys(node: yaml.Node | None, origin: str) -> Iterator[str]:
    """YAML keeps the last of two equal keys in silence; a recipe refuses them."""
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                yield f"{origin}:{line}: a key is a word, not a list or a mapping"
                continue
            if key.value in seen:
                yield f"{origin}:{line}: '{key.value}' stands twice; first in line {seen[key.value]}"
            seen.setdefault(key.value, line)
            yield from _faulty_keys(value, origin)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _faulty_keys(value, origin)
