"""Arithmetic: sums, differences and products, in digits and in words, each starting from the last result."""

from compressor.builtin.grammar.dice import Dice
from compressor.builtin.grammar.spelling import capital, spell


def arithmetic(dice: Dice) -> str:
    """Each line starts from the last result, so an early slip is a slip to the end."""
    result = dice.number(1, 20)
    said = []
    for _ in range(dice.number(5, 10)):
        first, other = result, dice.number(1, 12)
        sign, word = dice.pick([("+", "plus"), ("-", "minus"), ("*", "times")])
        if (sign == "-" and other > first) or (sign == "*" and first * other > 99) or first + other > 99:
            sign, word, other = ("-", "minus", min(first, other)) if first else ("+", "plus", other)
        result = {"+": first + other, "-": first - other, "*": first * other}[sign]
        in_words = f"{capital(spell(first))} {word} {spell(other)} is {spell(result)}."
        said.append(in_words if dice.chance(0.4) else f"{first} {sign} {other} = {result}.")
        if dice.chance(0.2):
            said.append(f"{result} is {'odd' if result % 2 else 'even'}.")
    return " ".join(said)
