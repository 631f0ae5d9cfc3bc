"""Lists: what is packed and taken out again; the same words in order and backwards."""

from compressor.builtin.grammar.dice import Dice
from compressor.builtin.grammar.spelling import amount, capital, join
from compressor.builtin.grammar.words import ANIMALS, COLORS, FOODS, PEOPLE, THINGS


def packing(dice: Dice) -> str:
    """A box of counted things; taking some out leaves the rest in the same order."""
    person = dice.pick(PEOPLE)
    inside = {thing: dice.number(1, 6) for thing in dice.some(dice.any([THINGS, FOODS]), dice.number(3, 4))}

    def contents() -> str:
        return join([amount(count, thing) for thing, count in inside.items()])

    said = f"{person.name} packs {person.their} {dice.pick(['box', 'bag', 'basket'])}: {contents()}."
    for _ in range(dice.number(1, 3)):
        thing = dice.any(list(inside))
        taken = dice.number(1, inside[thing])
        inside[thing] -= taken
        if not inside[thing]:
            del inside[thing]
        said += f" {capital(person.they)} takes out {amount(taken, thing)}. "
        if not inside:
            return said + "Now it is empty."
        said += f"Now it holds {contents()}."
    return said


def ordering(dice: Dice) -> str:
    """The same words once more: by the alphabet, or from the last to the first."""
    said = dice.some(dice.any([FOODS, ANIMALS, COLORS, THINGS]), dice.number(3, 6))
    in_order = f"In order: {', '.join(sorted(said))}."
    backwards = f"Backwards: {', '.join(reversed(said))}."
    return f"The words are {join(said)}. {dice.any([in_order, backwards, f'{in_order} {backwards}'])}"


def lists(dice: Dice) -> str:
    return " ".join(dice.any([packing, ordering])(dice) for _ in range(dice.number(2, 3)))
