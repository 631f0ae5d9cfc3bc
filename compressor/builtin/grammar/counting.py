"""Counting: amounts that add up, that change, and sequences up and down."""

from compressor.builtin.grammar.dice import Dice
from compressor.builtin.grammar.spelling import amount, capital, join, spell, was
from compressor.builtin.grammar.words import ANIMALS, PLACES


def animals_in_all(dice: Dice) -> str:
    """Amounts that add up; then some leave or come, and the total follows."""
    kinds, place = dice.some(ANIMALS, dice.number(2, 3)), dice.pick(PLACES)
    counts = {kind: dice.number(1, 9) for kind in kinds}
    herd = join([amount(count, kind) for kind, count in counts.items()])
    said = f"There {was(counts[kinds[0]])} {herd} in the {place}: {amount(sum(counts.values()), 'animal')} in all."
    for _ in range(dice.number(1, 3)):
        kind, change = dice.any(kinds), dice.number(1, 4)
        leaves = change <= counts[kind] and dice.chance(0.5)
        counts[kind] += -change if leaves else change
        moved = dice.pick(["left", "ran away"] if leaves else ["came", "arrived"])
        said += f" {capital(amount(change, kind))} {moved}."
        said += f" Now there {was(counts[kind])} {amount(counts[kind], kind)} and {spell(sum(counts.values()))} in all."
    return said


def sequence(dice: Dice) -> str:
    """Up or down by a step, in words or in digits."""
    start, step, length = dice.number(1, 40), dice.number(1, 5), dice.number(4, 9)
    sign, way = dice.any([(1, "up"), (-1, "down")])
    in_words = dice.chance(0.5)
    numbers = [start + step * row for row in range(length)][::sign]
    written = [spell(number) if in_words else str(number) for number in numbers]
    return f"Count {way} from {written[0]} by {spell(step)}: {', '.join(written)}."


def counting(dice: Dice) -> str:
    return " ".join(dice.pick([animals_in_all, sequence])(dice) for _ in range(dice.number(2, 4)))
