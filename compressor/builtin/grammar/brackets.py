"""Brackets: three kinds of them and named ones, opened and closed in order, with words between them."""

from compressor.builtin.grammar.dice import Dice
from compressor.builtin.grammar.spelling import capital
from compressor.builtin.grammar.words import ANIMALS, COLORS

BRACKETS = [("(", ")"), ("[", "]"), ("{", "}")]


def nested(dice: Dice, depth: int) -> str:
    """Words and bracketed groups of words, inside each other to `depth`."""
    parts = []
    for _ in range(dice.number(1, 3)):
        if depth and dice.chance(0.6):
            left, right = dice.pick(BRACKETS)
            parts.append(f"{left}{nested(dice, depth - 1)}{right}")
        else:
            parts.append(dice.pick(dice.any([COLORS, ANIMALS])))
    return " ".join(parts)


def named(dice: Dice) -> str:
    """Whoever comes in last goes out first."""
    inside: list[str] = []
    said = []
    for _ in range(dice.number(3, 6)):
        inside += dice.some([word for word in ANIMALS if word not in inside], 1)
        said.append(f"in {inside[-1]}")
        while inside and dice.chance(0.3):
            said.append(f"out {inside.pop()}")
    return f"{capital(', '.join(said + [f'out {word}' for word in reversed(inside)]))}."


def brackets(dice: Dice) -> str:
    groups = (named(dice) if dice.chance(0.3) else f"({nested(dice, 4)})." for _ in range(dice.number(3, 5)))
    return " ".join(groups)
