"""Questions: a table of facts in words, then its cells, forwards and backwards."""

from compressor.builtin.grammar.dice import Dice
from compressor.builtin.grammar.spelling import capital, join, noun, spell, with_a
from compressor.builtin.grammar.words import ANIMALS, FOODS, PEOPLE, PLACES


def questions(dice: Dice) -> str:
    """Everybody has a row - a home, a food, an animal, an age - and each question asks for one cell."""
    people = dice.some(PEOPLE, dice.number(3, 4))
    foods, pets, homes = (dice.some(kind, len(people)) for kind in (FOODS, ANIMALS, PLACES))
    ages = [dice.number(3, 12) for _ in people]
    rows = list(zip(people, foods, pets, homes, ages, strict=True))
    said = []
    for person, food, pet, home, age in rows:
        likes, lives = f"likes {noun(food, plural=True)}", f"lives in the {home}"
        has, old = f"has {with_a(pet)}", f"is {spell(age)} years old"
        deeds = dice.some([likes, has, lives, old], 4)
        said.append(f"{person.name} {join(deeds[:2])}. {capital(person.they)} {join(deeds[2:])}.")
    for _ in range(dice.number(3, 6)):
        person, food, pet, home, age = dice.any(rows)
        other, *_, age_of_other = dice.any([row for row in rows if row[0] is not person])
        said.append(
            dice.any(
                [
                    f"What does {person.name} like? {capital(noun(food, plural=True))}.",
                    f"Who likes {noun(food, plural=True)}? {person.name}.",
                    f"Where does {person.name} live? In the {home}.",
                    f"Who has {with_a(pet)}? {person.name}.",
                    f"How old is {person.name}? {capital(spell(age))}.",
                    f"Is {person.name} older than {other.name}? {'Yes' if age > age_of_other else 'No'}.",
                ]
            )
        )
    return " ".join(said)
