"""What is wrong with a value, as lines that a person can act on.

pydantic's errors  ->  recipe.yaml:6: quantize.gptq: unknown field 'bit'. Did you mean 'bits'?
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel

from compressor.recipe.suggestion import suggestion
from compressor.recipe.yaml_text import Place


def findings(
    errors: Iterable[Mapping[str, Any]], model: type[BaseModel], lines: Mapping[Place, str], origin: str
) -> list[str]:
    """A line for each error, in the order of the text; a place without a line of its own has its section's."""
    found = []
    for error in errors:
        place: Place = error["loc"]
        where = next((lines[place[:end]] for end in range(len(place), 0, -1) if place[:end] in lines), origin)
        line = where.rpartition(":")[2]
        found.append((int(line) if line.isdigit() else 0, f"{where}: {_sentence(error, model)}"))
    return [text for _, text in sorted(found)]


def _sentence(error: Mapping[str, Any], model: type[BaseModel]) -> str:
    """Which field, and what is wrong with it."""
    place: Place = error["loc"]
    *sections, name = place
    if error["type"] == "extra_forbidden":
        hint = suggestion(str(name), _fields(model, sections))
        return f"{_path(sections) or 'recipe'}: unknown field '{name}'. {hint}"
    if error["type"] == "missing":
        return f"{_path(place)}: missing; every recipe names it"
    return f"{_path(place)}: {_fault(error)}"


def _fault(error: Mapping[str, Any]) -> str:
    """What is wrong with a value, and for a name of a list the nearest one."""
    message = str(error["msg"]).removeprefix("Value error, ").replace("Input", "the value")
    given = error.get("input")
    if error["type"] == "literal_error":
        choices = [text.strip(" '") for text in error["ctx"]["expected"].replace(" or ", ", ").split(",")]
        near = suggestion(given, choices, otherwise="") if isinstance(given, str) else ""
        return f"{given!r} is not one of {', '.join(choices)}. {near}".strip()
    return message if isinstance(given, dict) or error["type"] == "value_error" else f"{message}, not {given!r}"


def _path(place: Iterable[str | int]) -> str:
    return ".".join(str(part) for part in place)


def _fields(model: type[BaseModel], place: Iterable[str | int]) -> list[str]:
    """Names of the fields of the section at a place."""
    for part in place:
        fields = {field.alias or name: field.annotation for name, field in model.model_fields.items()}
        choices = _choices(fields.get(str(part)))
        sections = [one for one in choices if isinstance(one, type) and issubclass(one, BaseModel)]
        if not sections:
            return []
        model = sections[0]
    return [field.alias or name for name, field in model.model_fields.items()]


def _choices(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
