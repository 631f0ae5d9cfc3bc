"""The words of the grammar: no noun ends in "s" before it is plural, no verb before it is singular.

The first word of a list is the common one.
"""

from dataclasses import dataclass


def words(line: str) -> list[str]:
    return line.split()


@dataclass(frozen=True)
class Person:
    """A name and the words that stand for it."""

    name: str
    they: str
    their: str


PEOPLE = [
    Person(name, *pronouns)
    for pair in zip(
        words("Mira Ann Nora Ida Lena Rosa Kate Lily Eva Jane Olga Ruth"),
        words("Tom Ben Max Otto Sam Paul Finn Hugo Carl Jack Emil Leo"),
        strict=True,
    )
    for name, pronouns in zip(pair, [("she", "her"), ("he", "his")], strict=True)
]
ANIMALS = words("dog cat bird fox horse mouse goose cow goat wolf duck bear hen frog owl pig bee rabbit")
WORKERS = words("child farmer baker woman man teacher sailor girl boy doctor painter king queen singer nurse guard")
THINGS = words("lamp key book cup box ball coin map rope hat letter knife bell bowl stone clock spoon ring brush pen")
FOODS = words("apple plum nut pear egg cake carrot bean pie cherry onion melon berry potato")
PLACES = words("garden kitchen barn house forest market school field village valley town cellar tower harbor mill")
PARTS = words("door table wall gate tree window bridge fence shelf chair road well boat bench roof")
COLORS = words("red blue green white black yellow brown grey golden pink")
TRAITS = words("old small big young quiet good happy strange tired clever kind cold slow brave hungry proud wet busy")
LOOKS = words("old small big new heavy light clean dirty broken lovely cheap round open wooden")
WEATHERS = words("warm cold dark clear windy grey bright long quiet wet")
ADVERBS = words("here often slowly today again always quietly well never outside together now")
ONE = words("the a this every one")
MANY = words("the some these two many all three")
NEAR = words("near beside behind under by")
INTRANSITIVE = words("sleep run sing wait work swim laugh sit rest play walk listen dance fall smile cry")
TRANSITIVE = words("see follow know like help watch hear love call visit fear chase teach meet trust greet")
HANDLE = words("carry hold want push clean find hide move paint sell bring need")
