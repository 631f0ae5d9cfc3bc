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

from collections.abc import Callable, Iterator, Sequence

from compressor.builtin.grammar.arithmetic import arithmetic
from compressor.builtin.grammar.brackets import brackets
from compressor.builtin.grammar.counting import counting
from compressor.builtin.grammar.dice import Dice
from compressor.builtin.grammar.facts import facts
from compressor.builtin.grammar.lists import lists
from compressor.builtin.grammar.questions import questions
from compressor.builtin.grammar.world import dialogue, story

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
