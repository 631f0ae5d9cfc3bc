"""The grammar keeps its laws, seen by readers that share no code with it.

Every reader below works from the text alone: it parses, counts or replays what a document says.
"""

import re
from collections.abc import Iterator
from itertools import pairwise

import pytest

from compressor.builtin.grammar import KINDS, documents
from compressor.builtin.grammar.words import ANIMALS, NEAR, PARTS, THINGS, WORKERS
from tests.builtin.reading import herd, read_number, stem

# --- seeds --------------------------------------------------------------------------------------------------------


def test_same_seed_same_text_and_a_larger_count_continues_it() -> None:
    assert list(documents(7, 40))[:20] == list(documents(7, 20))


def test_different_seeds_share_no_document() -> None:
    assert not set(documents(7, 200)) & set(documents(8, 200))


@pytest.mark.parametrize("kind", KINDS)
def test_a_document_is_one_clean_line(kind: str) -> None:
    for line in documents(7, 50, [kind]):
        assert line.isascii()
        assert line.isprintable()
        assert "  " not in line
        assert line[-1] in '."'


def test_every_kind_comes_and_none_drowns_the_others() -> None:
    """Told apart by a phrase only they have."""
    lines = list(documents(7, 400))
    for mark in ("Who had the", " that ", '" asked ', "years old", "animals in all", "The words are", " = ", "({"):
        assert 5 < sum(mark in line for line in lines) < 300, mark


# --- nesting ------------------------------------------------------------------------------------------------------


def test_brackets_close_in_order() -> None:
    depths = set()
    for line in documents(7, 200, ["brackets"]):
        waiting = []
        for sign in re.sub(r"[^()\[\]{}]", "", line):
            if sign in "([{":
                waiting.append(sign)
                depths.add(len(waiting))
            else:
                assert waiting.pop() + sign in ("()", "[]", "{}"), line
        assert not waiting, line
    assert depths == {1, 2, 3, 4, 5}


def test_named_brackets_close_in_order() -> None:
    for line in documents(7, 200, ["brackets"]):
        waiting: list[str] = []
        for way, name in re.findall(r"\b(in|out) (\w+)", line.lower()):
            if way == "in":
                waiting.append(name)
            else:
                assert waiting.pop() == name, line
        assert not waiting, line


def test_quotes_close_inside_quotes() -> None:
    nested = 0
    for line in documents(7, 200, ["dialogue"]):
        assert line.count('"') % 2 == 0, line
        for quote in line.split('"')[1::2]:
            assert quote.count("'") in (0, 2), line
            nested += quote.count("'") // 2
        assert "'" not in "".join(line.split('"')[::2]), line
    assert nested > 50


# --- agreement ----------------------------------------------------------------------------------------------------

SINGULAR_ONLY, PLURAL_ONLY = {"a", "an", "this", "every", "one"}, {"these", "some", "two", "many", "all", "three"}
DETERMINERS = {"the", *SINGULAR_ONLY, *PLURAL_ONLY}
SINGULAR_NOUNS = {*ANIMALS, *WORKERS, *THINGS, *PARTS}
IRREGULAR_PLURALS = {"mice", "geese", "children", "women", "men"}


def is_plural_noun(word: str) -> bool:
    return word in IRREGULAR_PLURALS or word.endswith("s")


def is_plural_verb(word: str) -> bool:
    return not word.endswith("s")


class Reader:
    """Recursive descent: clause = NP V [NP]; NP = determiner ... noun [near the noun] [that (V NP | NP V)]."""

    def __init__(self, sentence: str) -> None:
        self.left = sentence.lower().split()
        self.agreed = 0  # verbs that were checked

    def clause(self) -> None:
        self.verb(self.noun_phrase())
        if self.peek() in DETERMINERS:
            self.noun_phrase()

    def verb(self, subject_is_plural: bool) -> None:
        assert is_plural_verb(self.left.pop(0)) == subject_is_plural
        self.agreed += 1

    def noun_phrase(self) -> bool:
        determiner = self.left.pop(0)
        assert determiner in DETERMINERS
        plural = self.noun()
        assert not (plural and determiner in SINGULAR_ONLY)
        assert plural or determiner not in PLURAL_ONLY
        if self.peek() in NEAR:
            del self.left[:2]
            self.noun()
        if self.peek() == "that":
            self.left.pop(0)
            if self.peek() in DETERMINERS:
                self.verb(self.noun_phrase())
            else:
                self.verb(plural)
                self.noun_phrase()
        return plural

    def noun(self) -> bool:
        while (word := self.left.pop(0)) not in SINGULAR_NOUNS:
            if is_plural_noun(word):
                return True
        return False

    def peek(self) -> str:
        return self.left[0] if self.left else ""


def clauses(line: str) -> Iterator[str]:
    for sentence in re.findall(r"[^.?]+", line):
        yield from re.split(r", | (?:and|but|because|when) ", re.sub(r"^\s*(When|If|Because) ", "", sentence.strip()))


def test_verbs_agree_with_their_subjects() -> None:
    agreed = 0
    for line in documents(7, 300, ["facts"]):
        for clause in clauses(line):
            first = clause.split()[0].lower()
            if first in DETERMINERS:
                reader = Reader(clause)
                try:
                    reader.clause()
                except (AssertionError, IndexError) as error:
                    raise AssertionError(clause) from error
                agreed += reader.agreed
            elif first in ("do", "does"):
                reader = Reader(clause)
                reader.left.pop(0)
                assert reader.noun_phrase() == is_plural_verb(first), clause
            elif first in ("it", "they"):
                assert is_plural_verb(clause.split()[1]) == (first == "they"), clause
            else:
                assert first in ("yes", "no", "there"), clause
    assert agreed > 2000


def test_a_pronoun_has_the_number_of_the_subject_before_it() -> None:
    seen = set()
    for line in documents(7, 300, ["facts"]):
        for before, pronoun in re.findall(r"([A-Z][^.?]*)\. (It|They) ", line):
            assert Reader(before).noun_phrase() == (pronoun == "They"), before
            seen.add(pronoun)
    assert seen == {"It", "They"}


# --- numbers ------------------------------------------------------------------------------------------------------


def test_animals_add_up_while_they_come_and_go() -> None:
    checked = 0
    opening = r"There (?:was|were) (?P<herd>[^.:]+) in the \w+: (?P<total>[\w-]+) animals? in all\."
    change = r"(?P<change>[\w-]+) (?P<who>\w+) (?P<how>left|ran away|came|arrived)\."
    result = r"Now there (?:was|were) (?P<count>[\w-]+) \w+ and (?P<sum>[\w-]+) in all\."
    for line in documents(7, 200, ["counting"]):
        counts: dict[str, int] = {}
        for match in re.finditer(f"{opening}|{change} {result}", line):
            if match["herd"]:
                counts = herd(match["herd"])
                assert sum(counts.values()) == read_number(match["total"]), line
                continue
            who, sign = stem(match["who"]), 1 if match["how"] in ("came", "arrived") else -1
            counts[who] += sign * read_number(match["change"])
            assert counts[who] == read_number(match["count"]), line
            assert sum(counts.values()) == read_number(match["sum"]), line
            checked += 1
    assert checked > 200


def test_sequences_keep_their_step() -> None:
    checked = 0
    for line in documents(7, 200, ["counting"]):
        for way, step, listed in re.findall(r"Count (up|down) from [\w-]+ by (\w+): ([^.]+)\.", line):
            numbers = [read_number(word) for word in listed.split(", ")]
            assert {after - before for before, after in pairwise(numbers)} == {
                read_number(step) * (1 if way == "up" else -1)
            }, line
            checked += 1
    assert checked > 50


def test_arithmetic_is_right_and_each_line_starts_from_the_last_result() -> None:
    operators = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}
    operators |= {"plus": int.__add__, "minus": int.__sub__, "times": int.__mul__}
    used = set()
    for line in documents(7, 200, ["arithmetic"]):
        last = None
        for sentence in line.rstrip(".").split(". "):
            first, operator, *rest = sentence.split()
            if operator == "is":
                assert rest == ["odd" if read_number(first) % 2 else "even"], line
                continue
            second, _, result = rest
            assert last in (None, read_number(first)), line
            last = operators[operator](read_number(first), read_number(second))
            assert last == read_number(result), line
            used.add(operator)
    assert used == set(operators)
