"""A small world: who is where and who holds what. Stories and dialogues are told in it."""

from typing import final

from compressor.builtin.grammar.dice import Dice
from compressor.builtin.grammar.facts import noun_phrase
from compressor.builtin.grammar.spelling import capital, join, was, with_a
from compressor.builtin.grammar.words import (
    ANIMALS,
    COLORS,
    LOOKS,
    PEOPLE,
    PLACES,
    THINGS,
    TRAITS,
    WEATHERS,
    Person,
    words,
)


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


def story(dice: Dice) -> str:
    world = World(dice)
    events = [world.event() for _ in range(dice.number(5, 11))]
    return " ".join([world.opening_text, *events, *(world.question() for _ in range(dice.number(2, 3)))])


def dialogue(dice: Dice) -> str:
    world = World(dice)
    lines = [world.event() if dice.chance(0.4) else world.talk() for _ in range(dice.number(5, 9))]
    return " ".join([world.opening_text, *lines])
