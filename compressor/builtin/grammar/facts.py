"""Facts: a verb agrees with its subject across phrases, relative clauses and clauses nested in the centre."""

from dataclasses import dataclass

from compressor.builtin.grammar.dice import Dice
from compressor.builtin.grammar.spelling import amount, capital, noun, verb, with_a
from compressor.builtin.grammar.words import (
    ADVERBS,
    ANIMALS,
    COLORS,
    HANDLE,
    INTRANSITIVE,
    LOOKS,
    MANY,
    NEAR,
    ONE,
    PARTS,
    PLACES,
    THINGS,
    TRAITS,
    TRANSITIVE,
    WORKERS,
)


@dataclass(frozen=True)
class Phrase:
    """A noun phrase, and the number its verb must agree with."""

    text: str
    plural: bool


def noun_phrase(dice: Dice, nouns: list[str], depth: int) -> Phrase:
    """A determiner, perhaps an adjective, a noun, and perhaps phrases that stand between the noun and its verb."""
    plural = dice.chance(0.45)
    head = noun(dice.pick(nouns), plural)
    if dice.chance(0.3):
        head = f"{dice.pick(LOOKS if nouns is THINGS else TRAITS)} {head}"
    determiner = dice.pick(MANY if plural else ONE)
    text = with_a(head) if determiner == "a" else f"{determiner} {head}"
    if dice.chance(0.3):
        text += f" {dice.pick(NEAR)} the {noun(dice.pick(PARTS), dice.chance(0.5))}"
    if depth and dice.chance(0.45):
        text += f" that {relative(dice, plural, nouns is THINGS, depth - 1)}"
    return Phrase(text, plural)


def relative(dice: Dice, plural: bool, is_thing: bool, depth: int) -> str:
    """What follows "that": the head sees someone, or, nested in the centre, someone sees the head."""
    action = dice.pick(HANDLE if is_thing else TRANSITIVE)
    if is_thing or dice.chance(0.5):
        inner = noun_phrase(dice, dice.any([ANIMALS, WORKERS]), depth)
        return f"{inner.text} {verb(action, inner.plural)}"
    return f"{verb(action, plural)} {noun_phrase(dice, dice.any([ANIMALS, WORKERS]), depth).text}"


def predicate(dice: Dice, plural: bool, is_thing: bool) -> str:
    """A verb that agrees, and what it takes."""
    shape = "be" if is_thing else dice.pick(["act", "meet", "be", "handle", "have"])
    if shape == "act":
        action = verb(dice.pick(INTRANSITIVE), plural)
        return f"{action} {dice.pick(ADVERBS)}" if dice.chance(0.5) else action
    if shape == "meet":
        return f"{verb(dice.pick(TRANSITIVE), plural)} {noun_phrase(dice, dice.any([ANIMALS, WORKERS]), 1).text}"
    if shape == "handle":
        return f"{verb(dice.pick(HANDLE), plural)} {noun_phrase(dice, THINGS, 1).text}"
    if shape == "have":
        return f"{verb('have', plural)} {amount(dice.number(1, 9), dice.pick(THINGS))}"
    looks = dice.pick(dice.any([LOOKS, COLORS]) if is_thing else TRAITS)
    return f"{verb('be', plural)} {dice.any([looks, f'in the {dice.pick(PLACES)}'])}"


def clause(dice: Dice, depth: int = 2, nouns: list[str] | None = None) -> Phrase:
    """Subject and predicate, with the number of the subject."""
    nouns = nouns or dice.pick([ANIMALS, WORKERS, THINGS])
    subject = noun_phrase(dice, nouns, depth)
    return Phrase(f"{subject.text} {predicate(dice, subject.plural, nouns is THINGS)}", subject.plural)


def fact(dice: Dice) -> str:
    """One sentence, or two where the second speaks of the first one's subject by its pronoun."""
    shape = dice.pick(["plain", "pronoun", "joined", "when", "asked", "more"])
    if shape == "pronoun":
        nouns = dice.any([ANIMALS, THINGS])
        first = clause(dice, nouns=nouns)
        they = "They" if first.plural else "It"
        return f"{capital(first.text)}. {they} {predicate(dice, first.plural, nouns is THINGS)}."
    if shape == "joined":
        link = dice.pick(["and", "but", "because", "when"])
        return f"{capital(clause(dice).text)} {link} {clause(dice, depth=1).text}."
    if shape == "when":
        return f"{dice.pick(['When', 'If', 'Because'])} {clause(dice, depth=1).text}, {clause(dice).text}."
    if shape == "asked":
        subject = noun_phrase(dice, ANIMALS, 1)
        they, do = "they" if subject.plural else "it", verb("do", subject.plural)
        answer = dice.any([f"Yes, {they} {do}", f"No, {they} {do} not"])
        return f"{capital(do)} {subject.text} {dice.pick(INTRANSITIVE)}? {answer}."
    if shape == "more":
        one, two = dice.some(PLACES, 2)
        return f"There are more {noun(dice.pick(ANIMALS), plural=True)} in the {one} than in the {two}."
    return f"{capital(clause(dice).text)}."


def facts(dice: Dice) -> str:
    return " ".join(fact(dice) for _ in range(dice.number(4, 9)))
