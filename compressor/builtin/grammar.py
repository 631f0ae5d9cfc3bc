"""Same seed, same text: a grammar that writes short English-like documents, every one true in its own small world.

It gives a model of a million parameters something real to know, so that spoiling its weights can be seen. Each kind
of document asks for a skill of its own, and none of them is a template with holes:

    story       people move and pass things on; names, pronouns and things recur; the last questions have one answer
    facts       a verb agrees with its subject across phrases, relative clauses and clauses nested in the centre
    dialogue    speakers ask each other about the same small world; quotes stand inside quotes
    questions   a table of facts in words, then questions about its cells, forwards and backwards
    counting    amounts that add up, that change, and sequences up and down
    lists       what is packed and taken out again; the same words in order and backwards
    arithmetic  sums, differences and products, in digits and in words, each starting from the last result
    brackets    three kinds of brackets and named ones, opened and closed in order, with words between them

Words come with Zipf's weights: the first word of a list is the common one. A document is one line. All text is ours.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import TypeVar, final

T = TypeVar("T")


# --- words: no noun ends in "s" before it is plural, no verb before it is singular --------------------------------


def words(line: str) -> list[str]:
    return line.split()


@dataclass(frozen=True)
class Person:
    """A name and the words that stand for it."""

    name: str
    they: str
    their: str


@dataclass(frozen=True)
class Phrase:
    """A noun phrase, and the number its verb must agree with."""

    text: str
    plural: bool


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

PLURALS = {
    "mouse": "mice", "goose": "geese", "child": "children", "woman": "women", "man": "men",
    "wolf": "wolves", "knife": "knives", "shelf": "shelves", "potato": "potatoes",
}  # fmt: skip
ONES = words(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"
    " eighteen nineteen"
)
TENS = words("zero ten twenty thirty forty fifty sixty seventy eighty ninety")
BRACKETS = [("(", ")"), ("[", "]"), ("{", "}")]


# --- dice ---------------------------------------------------------------------------------------------------------


@cache
def zipf(count: int) -> list[float]:
    """Running sums of 1 / (rank + 1): rank 1 weighs half, the tail stays alive."""
    return list(accumulate(1 / (rank + 1) for rank in range(1, count + 1)))


@final
class Dice:
    """Every choice of the grammar comes from here, so a seed is a text."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def pick(self, items: Sequence[T]) -> T:
        """One of `items`, the earlier the likelier."""
        return self._random.choices(items, cum_weights=zipf(len(items)))[0]

    def any(self, items: Sequence[T]) -> T:
        """One of `items`, all alike."""
        return self._random.choice(items)

    def some(self, items: Sequence[T], count: int) -> list[T]:
        """`count` different items, the earlier the likelier, in the order they fell."""
        left = list(items)
        return [left.pop(left.index(self.pick(left))) for _ in range(count)]

    def number(self, low: int, high: int) -> int:
        """A whole number, both ends included."""
        return self._random.randint(low, high)

    def chance(self, probability: float) -> bool:
        return self._random.random() < probability


# --- spelling -----------------------------------------------------------------------------------------------------


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


def with_a(words: str) -> str:
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


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


# --- facts: agreement ---------------------------------------------------------------------------------------------


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


# --- story and dialogue: one world --------------------------------------------------------------------------------


@final
class World:
    """Who is where and who holds what. Sentences change it and questions ask it, so every answer is true."""

    def __init__(self, dice: Dice) -> None:
        self.dice = dice
        self.people = dice.some(PEOPLE, dice.number(2, 4))
        self.places = dice.some(PLACES, 3)
        self.place = {person: dice.pick(self.places) for person in self.people}
        colors, names = dice.some(COLORS, 3), dice.some(THINGS, dice.number(2, 3))
        keepers: list[Person | str] = [*self.people, *self.places]
        self.keeper = {f"{color} {name}": dice.pick(keepers) for color, name in zip(colors, names, strict=False)}
        self.last: Person | None = None
        self.opening_text = self._opening()

    def _opening(self) -> str:
        """Everybody's place, then every thing's keeper."""
        time = self.dice.pick(words("day morning evening night"))
        sentences = [f"It was {with_a(self.dice.pick(WEATHERS))} {time}."]
        for place in self.places:
            if names := [person.name for person in self.people if self.place[person] == place]:
                sentences.append(f"{join(names)} {was(len(names))} in the {place}.")
        for thing, keeper in self.keeper.items():
            if isinstance(keeper, Person):
                sentences.append(f"{keeper.name} had {with_a(thing)}.")
            else:
                sentences.append(f"{capital(with_a(thing))} lay in the {keeper}.")
        return " ".join(sentences)

    def event(self) -> str:
        """Somebody does what the world allows."""
        actor = self.dice.pick(self.people)
        deeds = [self._go, self._go, self._feel]
        if self._kept_by(actor):
            deeds.append(self._drop)
        if self._kept_by(self.place[actor]):
            deeds += [self._take, self._take]
        if self._friends_of(actor):
            deeds.append(self._say)
        if self._kept_by(actor) and self._friends_of(actor):
            deeds += [self._give, self._give, self._give]
        return self.dice.any(deeds)(actor)

    def question(self) -> str:
        """A question about the world as it is now, and its answer."""
        thing, person = self.dice.any(list(self.keeper)), self.dice.any(self.people)
        keeper, held = self.keeper[thing], [f"the {thing}" for thing in self._kept_by(person)]
        shape = self.dice.pick(range(4))
        if shape == 0:
            return f"Who had the {thing}? {keeper.name if isinstance(keeper, Person) else 'Nobody'}."
        if shape == 1:
            return f"Where was the {thing}? In the {self.place[keeper] if isinstance(keeper, Person) else keeper}."
        if shape == 2:
            return f"Where was {person.name}? In the {self.place[person]}."
        return f"What did {person.name} have? {capital(join(held)) if held else 'Nothing'}."

    def talk(self) -> str:
        """One asks, another answers truly, sometimes in the words of a third: quotes inside quotes."""
        asker, speaker, *others = self.dice.some(self.people, len(self.people))
        thing = self.dice.any(list(self.keeper))
        keeper = self.keeper[thing]
        question = f"{self.dice.pick(['Where is', 'Who has', 'Do you have'])} the {thing}?"
        answer = self._answer(keeper, speaker, asker)
        if question.startswith("Do"):
            answer = f"{'yes' if keeper == speaker else 'no'}, {answer}"
        elif others and keeper not in (speaker, asker) and self.dice.chance(0.5):
            witness = self.dice.any(others)
            answer = f"{witness.name} told me, '{capital(self._answer(keeper, witness, speaker))}'"
        self.last, answer = None, capital(answer)
        if self.dice.chance(0.5):
            return f'"{question}" asked {asker.name}. "{answer}," said {speaker.name}.'
        return f'{asker.name} asked {speaker.name}, "{question}" {capital(speaker.they)} said, "{answer}."'

    def _answer(self, keeper: Person | str, speaker: Person, listener: Person) -> str:
        """Where the thing is, as `speaker` says it to `listener`."""
        if isinstance(keeper, str):
            return f"it is in the {keeper}"
        if keeper in (speaker, listener):
            return f"{'I' if keeper == speaker else 'you'} have it"
        return f"{keeper.name} has it"

    def _kept_by(self, keeper: Person | str) -> list[str]:
        return [thing for thing, owner in self.keeper.items() if owner == keeper]

    def _friends_of(self, actor: Person) -> list[Person]:
        return [person for person in self.people if person != actor and self.place[person] == self.place[actor]]

    def _subject(self, actor: Person) -> str:
        """The pronoun where the last sentence was about the same person, else the name."""
        is_known = actor == self.last and self.dice.chance(0.7)
        self.last = actor
        time = self.dice.pick(["", "then", "after that,", "later", "at noon", "soon"])
        return capital(f"{time} {actor.they if is_known else actor.name}".strip())

    def _go(self, actor: Person) -> str:
        self.place[actor] = self.dice.any([place for place in self.places if place != self.place[actor]])
        text = f"{self._subject(actor)} {self.dice.pick(['went', 'walked', 'ran', 'came'])} to the {self.place[actor]}"
        if held := self._kept_by(actor):
            return f"{text} with the {self.dice.any(held)}."
        if friends := self._friends_of(actor):
            return f"{text}, where {join([friend.name for friend in friends])} {was(len(friends))}."
        return f"{text}."

    def _feel(self, actor: Person) -> str:
        """How somebody was, or what there was to see: a past tense that agrees."""
        if self.dice.chance(0.5):
            self.last = None
            scene = noun_phrase(self.dice, ANIMALS, depth=0)
            return f"{capital(scene.text)} {was(1 + scene.plural)} {self.dice.pick(TRAITS)}."
        did = self.dice.pick(words("sat laughed sang slept smiled danced waited"))
        return f"{self._subject(actor)} was {self.dice.pick(TRAITS)} and {did}."

    def _drop(self, actor: Person) -> str:
        thing = self.dice.any(self._kept_by(actor))
        self.keeper[thing] = self.place[actor]
        did = self.dice.pick(["put", "left", "lost"])
        return f"{self._subject(actor)} {did} the {thing} in the {self.place[actor]}."

    def _take(self, actor: Person) -> str:
        thing = self.dice.any(self._kept_by(self.place[actor]))
        self.keeper[thing] = actor
        return f"{self._subject(actor)} {self.dice.pick(['took', 'found', 'saw and took'])} the {thing}."

    def _give(self, actor: Person) -> str:
        thing, friend = self.dice.any(self._kept_by(actor)), self.dice.any(self._friends_of(actor))
        self.keeper[thing] = friend
        gave = f"{self._subject(actor)} {self.dice.pick(['gave', 'handed', 'brought'])}"
        return self.dice.any([f"{gave} the {thing} to {friend.name}.", f"{gave} {friend.name} the {thing}."])

    def _say(self, actor: Person) -> str:
        friend = self.dice.any(self._friends_of(actor))
        opinion = f"The {self.dice.any(list(self.keeper))} is {self.dice.pick(LOOKS)}."
        return f'{self._subject(actor)} said to {friend.name}, "{opinion}"'


def was(count: int) -> str:
    return "was" if count == 1 else "were"


def story(dice: Dice) -> str:
    world = World(dice)
    events = [world.event() for _ in range(dice.number(5, 11))]
    return " ".join([world.opening_text, *events, *(world.question() for _ in range(dice.number(2, 3)))])


def dialogue(dice: Dice) -> str:
    world = World(dice)
    lines = [world.event() if dice.chance(0.4) else world.talk() for _ in range(dice.number(5, 9))]
    return " ".join([world.opening_text, *lines])


# --- questions: a table in words ----------------------------------------------------------------------------------


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


# --- counting, lists, arithmetic, brackets ------------------------------------------------------------------------


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


# --- documents ----------------------------------------------------------------------------------------------------


KINDS: dict[str, Callable[[Dice], str]] = {
    "story": story,
    "facts": facts,
    "dialogue": dialogue,
    "questions": questions,
    "counting": counting,
    "lists": lists,
    "arithmetic": arithmetic,
    "brackets": brackets,
}


def documents(seed: int, count: int, kinds: Sequence[str] = tuple(KINDS)) -> Iterator[str]:
    """The first `count` documents of `seed`, one line each; a larger count only continues the same text.

    `kinds` narrows the choice; the earlier kinds come more often.
    """
    dice = Dice(seed)
    for _ in range(count):
        yield KINDS[dice.pick(kinds)](dice)
