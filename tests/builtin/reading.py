"""Numbers and amounts, read off a text by code that shares nothing with the grammar that wrote it."""

from __future__ import annotations

import re

UNITS = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
           seventeen eighteen nineteen"""
TENS = "zero ten twenty thirty forty fifty sixty seventy eighty ninety"
NUMBERS = {word: 10 * tens for tens, word in enumerate(TENS.split())} | {
    word: number for number, word in enumerate(UNITS.split())
}


def read_number(text: str) -> int:
    if text.isdigit():
        return int(text)
    return sum(NUMBERS[part] for part in text.lower().split("-"))


def herd(text: str) -> dict[str, int]:
    """Amounts in words, by the singular: `two cats and one dog` -> {"cat": 2, "dog": 1}."""
    return {stem(name): read_number(count) for count, name in re.findall(r"([\w-]+) (\w+)(?:,| and|$)", text)}


def stem(name: str) -> str:
    """The singular: mice -> mouse, foxes -> fox, cherries -> cherry."""
    name = {"mice": "mouse", "geese": "goose", "wolves": "wolf", "knives": "knife", "pies": "pie"}.get(name, name)
    return re.sub("ies$", "y", re.sub("(x|ch|sh|o)es$", r"\1", name)).removesuffix("s")
