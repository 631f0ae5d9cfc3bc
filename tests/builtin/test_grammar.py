"""The grammar keeps its laws, seen by readers that share no code with it; the committed model is the one it describes.

Every reader below works from the text alone: it parses, counts or replays what a document says.
"""

import json
import re
from collections.abc import Iterator
from functools import cache
from itertools import islice, pairwise

import pytest

from compressor.builtin import CALIBRATION, HELDOUT, TINY_LM
from compressor.builtin.grammar import KINDS, documents
from compressor.builtin.grammar.words import ANIMALS, NEAR, PARTS, THINGS, WORKERS

UNITS = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
           seventeen eighteen nineteen"""
TENS = "zero ten twenty thirty forty fifty sixty seventy eighty ninety"
NUMBERS = {word: 10 * tens for tens, word in enumerate(TENS.split())} | {
    word: number for number, word in enumerate(UNITS.split())
}


def read_number(text: str) -> int:
    if text.isdigit():
        return int(text)
    return sum(NUMBERS[part] for part in text.lower().split("-"))


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


def herd(text: str) -> dict[str, int]:
    """Amounts in words, by the singular: `two cats and one dog` -> {"cat": 2, "dog": 1}."""
    return {stem(name): read_number(count) for count, name in re.findall(r"([\w-]+) (\w+)(?:,| and|$)", text)}


def stem(name: str) -> str:
    """The singular: mice -> mouse, foxes -> fox, cherries -> cherry."""
    name = {"mice": "mouse", "geese": "goose", "wolves": "wolf", "knives": "knife", "pies": "pie"}.get(name, name)
    return re.sub("ies$", "y", re.sub("(x|ch|sh|o)es$", r"\1", name)).removesuffix("s")


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


# --- worlds -------------------------------------------------------------------------------------------------------

THING = r"\w+ \w+"
EVENT = re.compile(
    rf"(?P<owner>\w+) had an? (?P<had>{THING})\."
    rf"|An? (?P<lay>{THING}) lay in the (?P<lies_in>\w+)\."
    r"|(?P<people>[A-Z]\w+(?:, \w+)*(?: and \w+)?) (?:was|were) in the (?P<start>\w+)\."
    r"|(?P<goer>\w+) (?:went|walked|ran|came) to the (?P<goal>\w+)\b"
    r"|(?P<giver>\w+) (?:gave|handed|brought) "
    rf"(?:the (?P<gave>{THING}) to (?P<to>\w+)|(?P<whom>\w+) the (?P<what>{THING}))\."
    rf"|(?P<loser>\w+) (?:put|left|lost) the (?P<lost>{THING}) in the (?P<lost_in>\w+)\."
    rf"|(?P<taker>\w+) (?:took|found|saw and took) the (?P<took>{THING})\."
    rf"|Who had the (?P<asked>{THING})\? (?P<answer>\w+)\."
    rf"|Where was (?:the (?P<sought>{THING})|(?P<who>\w+))\? In the (?P<found_in>\w+)\."
    r"|(?<!where )(?P<name>[A-Z][a-z]+) (?:was|said)\b"
)


def replay(line: str) -> Iterator[tuple[str, str, str]]:
    """(question, answer given, answer found) for each question, and for each place that a deed mentions."""
    keeper: dict[str, str] = {}  # thing -> person or place
    place: dict[str, str] = {}  # person -> place
    last = ""  # whoever did something last is "he" or "she"
    for match in EVENT.finditer(line):
        doer = match["giver"] or match["loser"] or match["taker"] or match["goer"] or match["name"] or last
        last = doer = last if doer.lower() in ("he", "she") else doer
        if match["people"]:
            place |= dict.fromkeys(re.split(", | and ", match["people"]), match["start"])
        elif match["goer"]:
            place[doer] = match["goal"]
        elif match["had"]:
            keeper[match["had"]] = match["owner"]
        elif match["lay"]:
            keeper[match["lay"]] = match["lies_in"]
        elif match["giver"]:
            keeper[match["gave"] or match["what"]] = friend = match["to"] or match["whom"]
            yield "met", place[doer], place[friend]
        elif match["loser"]:
            yield "lost by", doer, keeper[match["lost"]]
            keeper[match["lost"]] = place[doer]
            yield "lost in", match["lost_in"], place[doer]
        elif match["taker"]:
            yield "took in", place[doer], keeper[match["took"]]
            keeper[match["took"]] = doer
        elif match["asked"]:
            owner = keeper[match["asked"]]
            yield "who", match["answer"], owner if owner in place else "Nobody"
        elif match["found_in"]:
            owner = match["who"] or keeper[match["sought"]]
            yield "where", match["found_in"], place.get(owner, owner)


def test_stories_are_true() -> None:
    asked, pronouns = [], 0
    for line in documents(7, 300, ["story"]):
        pronouns += len(re.findall(r"\b[Ss]?[Hh]e\b", line))
        for question, given, found in replay(line):
            assert given == found, (question, line)
            asked.append((question, given))
    assert {question for question, _ in asked} == {"met", "lost by", "lost in", "took in", "who", "where"}
    assert ("who", "Nobody") in asked
    assert len(set(asked)) > 50
    assert pronouns > 200


def test_questions_are_answered_from_the_table() -> None:
    cells = {
        "like": r"likes (\w+)",
        "live": r"lives in the (\w+)",
        "have": r"has an? (\w+)",
        "old": r"is ([\w-]+) years old",
    }
    asked = 0
    for line in documents(7, 200, ["questions"]):
        told, questions = re.match(r"(.*?\.) ((?:What|Who|Where|How|Is) .*)", line).groups()  # type: ignore[union-attr]
        rows = {
            name: {cell: re.search(pattern, row)[1] for cell, pattern in cells.items()}  # type: ignore[index]
            for name, row in re.findall(r"([A-Z]\w+) ([^.]+\. (?:She|He) [^.]+\.)", told)
        }
        for question, answer in re.findall(r"([^.?]+)\? ([^.]+)\.", questions):
            word = answer.split()[-1].lower()
            match question.split():
                case ["What", _, name, _]:
                    assert rows[name]["like"] == word, line
                case ["Where", _, name, _]:
                    assert rows[name]["live"] == word, line
                case ["How", _, _, name]:
                    assert rows[name]["old"] == word, line
                case ["Who", _, *_, cell]:
                    assert cell in rows[answer].values(), line
                case ["Is", name, _, _, other]:
                    is_older = read_number(rows[name]["old"]) > read_number(rows[other]["old"])
                    assert word == ("yes" if is_older else "no"), line
                case _:
                    raise AssertionError(question)
            asked += 1
    assert asked > 600


def test_boxes_hold_what_was_not_taken_out() -> None:
    checked = 0
    for line in documents(7, 200, ["lists"]):
        inside: dict[str, int] = {}
        for packed, taken, held in re.findall(
            r"packs [^:]+: ([^.]+)|takes out ([^.]+)\. Now it (?:holds ([^.]+)|is empty)", line
        ):
            if packed:
                inside = herd(packed)
                continue
            for thing, count in herd(taken).items():
                inside[thing] -= count
            assert {thing: count for thing, count in inside.items() if count} == herd(held), line
            checked += 1
    assert checked > 200


def test_words_come_back_in_order_and_backwards() -> None:
    ways = set()
    for line in documents(7, 200, ["lists"]):
        for told in line.split("The words are ")[1:]:
            words = re.split(", | and ", told.split(".")[0])
            for way, listed in re.findall(r"(In order|Backwards): ([^.]+)", told):
                assert listed.split(", ") == (sorted(words) if way == "In order" else words[::-1]), line
                ways.add(way)
    assert ways == {"In order", "Backwards"}


# --- the committed model ------------------------------------------------------------------------------------------


@cache
def lines_of(split: str) -> list[str]:
    return (TINY_LM / f"{split}.txt").read_text().splitlines()


def test_the_committed_text_is_what_the_grammar_writes() -> None:
    """Fails when the grammar changed and nobody ran `make model`."""
    pytest.importorskip("torch")
    from compressor.builtin.train import CALIBRATION_SEED, HELDOUT_SEED

    assert lines_of("calibration")[:100] == list(documents(CALIBRATION_SEED, 100))
    assert lines_of("heldout")[:100] == list(documents(HELDOUT_SEED, 100))


def test_calibration_and_heldout_share_no_document() -> None:
    assert not set(lines_of("calibration")) & set(lines_of("heldout"))
    assert max(CALIBRATION.stat().st_size, HELDOUT.stat().st_size) < 300_000


def test_no_file_knows_where_it_was_made() -> None:
    for path in TINY_LM.iterdir():
        if path.suffix in (".json", ".md"):
            assert not re.search(r"/(home|root|tmp|work|usr)/", path.read_text()), path


def test_the_model_is_small_half_precision_and_tied() -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    assert (TINY_LM / "model.safetensors").stat().st_size < 3_000_000
    assert json.loads((TINY_LM / "config.json").read_text())["dtype"] == "float16"
    model = transformers.AutoModelForCausalLM.from_pretrained(TINY_LM, dtype=torch.float32)
    assert model.dtype == torch.float32
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert f"{model.num_parameters():,} parameters" in (TINY_LM / "README.md").read_text()


def test_the_tokenizer_gives_back_the_heldout_text() -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(TINY_LM)
    assert (len(tokenizer), tokenizer.bos_token_id, tokenizer.eos_token_id) == (512, 0, 1)
    tokens = tokenizer(lines_of("heldout"))["input_ids"]
    assert tokenizer.batch_decode(tokens) == lines_of("heldout")
    assert not {0, 1} & {token for line in tokens for token in line}
    assert 60_000 < sum(map(len, tokens)) < 90_000


def test_the_model_knows_its_text() -> None:
    """Twenty lines come within 10 % of the README's perplexity over all of them; another line spread is chance."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from compressor.builtin.train import perplexity

    tokenizer = transformers.AutoTokenizer.from_pretrained(TINY_LM)
    model = transformers.AutoModelForCausalLM.from_pretrained(TINY_LM, dtype=torch.float32)
    windows = [torch.tensor([0, *tokenizer.encode(line)]) for line in islice(lines_of("heldout"), 20)]
    stated = re.search(r"in float32: \*\*([\d.]+)\*\*", (TINY_LM / "README.md").read_text())
    assert stated
    assert perplexity(model, windows) == pytest.approx(float(stated[1]), rel=0.1)


def test_rounding_is_off_by_at_most_half_a_step() -> None:
    torch = pytest.importorskip("torch")
    from compressor.builtin.train import rounded

    weight = torch.randn(6, 128, generator=torch.Generator().manual_seed(0))
    step = weight.view(6, 4, 32).abs().amax(-1, keepdim=True) / 7
    error = (rounded(weight, bits=4, group=32) - weight).view(6, 4, 32).abs()
    assert (error <= step * 0.5001).all()  # half a step, and the rounding of float32
    assert error.max() > 0.4 * step.min()
