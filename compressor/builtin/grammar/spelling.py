"""Plurals, verbs, articles, numbers and lists in words."""

from collections.abc import Sequence

from compressor.builtin.grammar.words import words

PLURALS = {
    "mouse": "mice", "goose": "geese", "child": "children", "woman": "women", "man": "men",
    "wolf": "wolves", "knife": "knives", "shelf": "shelves", "potato": "potatoes",
}  # fmt: skip
ONES = words(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"
    " eighteen nineteen"
)
TENS = words("zero ten twenty thirty forty fifty sixty seventy eighty ninety")


def with_s(word: str) -> str:
    """The same letters make a noun plural and a verb singular: fox -> foxes, carry -> carries, run -> runs."""
    if word.endswith(("s", "x", "ch", "sh")):
        return word + "es"
    if word.endswith("y") and word[-2] not in "aeiou":
        return word[:-1] + "ies"
    return word + "s"


def noun(word: str, plural: bool) -> str:
    return PLURALS.get(word, with_s(word)) if plural else word


def verb(word: str, plural: bool) -> str:
    """The present tense: be -> is / are, have -> has / have, see -> sees / see."""
    irregular = {"be": ("is", "are"), "have": ("has", "have"), "do": ("does", "do")}
    return irregular.get(word, (with_s(word), word))[plural]


def with_a(text: str) -> str:
    return f"an {text}" if text[0] in "aeiou" else f"a {text}"


def spell(number: int) -> str:
    """Minus ninety-nine to ninety-nine in words."""
    if number < 0:
        return f"minus {spell(-number)}"
    if number < 20:
        return ONES[number]
    tens, ones = divmod(number, 10)
    return TENS[tens] + (f"-{ONES[ones]}" if ones else "")


def amount(number: int, word: str) -> str:
    """(3, "fox") -> "three foxes"."""
    return f"{spell(number)} {noun(word, number != 1)}"


def join(parts: Sequence[str]) -> str:
    """["a", "b", "c"] -> "a, b and c"."""
    return f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else parts[0]


def capital(text: str) -> str:
    return text[0].upper() + text[1:]


def was(count: int) -> str:
    return "was" if count == 1 else "were"
