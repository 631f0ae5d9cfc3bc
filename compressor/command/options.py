"""What the options of a command come to: overrides of a recipe's fields, and with them a recipe.

An option fills a place in a recipe, so what is wrong there is said of the option.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.errors import RequestError

if TYPE_CHECKING:
    from compressor.recipe.recipe import Recipe
    from compressor.recipe.yaml_text import Place

OPTIONS: Mapping[Place, str] = {
    ("target",): "--for",
    ("export", "task"): "--task",
    ("export", "dtype"): "--dtype",
    ("export", "opset"): "--opset",
    ("optimize", "dtype"): "--dtype",
    ("quantize",): "--method",
    ("calibration", "source"): "--calibration",
}


def load(path: Path, overrides: Sequence[str]) -> Recipe:
    from compressor.recipe import recipe

    return recipe.load(path, overrides)


def build(data: dict[str, Any], overrides: Sequence[str], options: Mapping[Place, str] = OPTIONS) -> Recipe:
    from compressor.recipe import recipe

    return recipe.build(data, overrides, options)


def static_axes(axes: str) -> list[str]:
    """batch_size=1,sequence_length=128 -> an override each. Raises: RequestError."""
    given = [one.strip() for one in axes.split(",") if one.strip()]
    if odd := [one for one in given if "=" not in one]:
        raise RequestError(f"--static {odd[0]}: write it as axis=size, e.g. batch_size=1")
    return [f"export.static.{one}" for one in given]


def budget(bits: str | None, max_increase: float | None) -> list[str]:
    """The options that name a budget, as overrides. Raises: RequestError."""
    if bits and "=" not in bits:
        raise RequestError(f"--budget {bits}: write it as bits=4.25")
    asked = [bits] if bits else []
    asked += [] if max_increase is None else [f"max_ppl_increase={max_increase}"]
    return [f"quantize.budget.{one}" for one in asked]


def refuse_unread(options: Mapping[str, object], reason: str) -> None:
    """Raises: RequestError for an option that was given, where nothing would come of it."""
    if given := next((name for name, value in options.items() if value), None):
        raise RequestError(f"{given}: {reason}")


def one_of(option: str, value: str, known: Sequence[str]) -> None:
    """Raises: RequestError where a value is none of those known."""
    if value not in known:
        raise RequestError(f"{option} {value}: it is one of {', '.join(known)}")
