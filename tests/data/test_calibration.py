"""Text becomes windows of tokens: nothing made up, chosen by seed, counted exactly, refused where it is too little."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from compressor.data import calibration
from compressor.data.calibration import Windows
from compressor.data.vocabulary import Vocabulary
from compressor.errors import RequestError
from compressor.recipe.limits import Perplexity
from compressor.recipe.recipe import Calibration
from tests.byte_tokenizer import BOS, write_tokenizer
from tests.conftest import Write


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    (folder / "config.json").write_text(json.dumps({"bos_token_id": BOS}))
    return Vocabulary.of(folder)


@pytest.fixture
def without_bos(vocabulary: Vocabulary) -> Vocabulary:
    return Vocabulary(vocabulary.folder, bos=None)


def calibrate(
    vocabulary: Vocabulary, source: str, *, samples: int = 4, length: int = 8, seed: int = 0, context: int | None = None
) -> Windows:
    options = Calibration(source=source, samples=samples, length=length, seed=seed)
    return calibration.calibration_windows(options, vocabulary, context)


def heldout(vocabulary: Vocabulary, options: Perplexity, context: int | None = None) -> Windows:
    return calibration.heldout_windows(options, vocabulary, context)


def letters(row: np.ndarray, vocabulary: Vocabulary) -> str:
    """A row of tokens as it was written; ^ is BOS."""
    tokenizer = Tokenizer.from_file(str(vocabulary.folder / "tokenizer.json"))
    return "".join("^" if token == BOS else str(tokenizer.id_to_token(token)) for token in row)


# --- calibration windows ---------------------------------------------------------------------------------------------


def test_windows_are_pieces_of_the_text_in_its_order(vocabulary: Vocabulary, source: Write) -> None:
    path = source("a.txt", "".join(f"window{piece:02}" for piece in range(20)))
    made = calibrate(vocabulary, path, samples=20)
    assert [letters(row, vocabulary) for row in made.ids] == [f"window{piece:02}" for piece in range(20)]
    assert made.mask.all()


def test_the_choice_is_seeded(vocabulary: Vocabulary, source: Write) -> None:
    path = source("a.txt", "".join(f"window{piece:02}" for piece in range(50)))
    one, again, other = (calibrate(vocabulary, path, samples=10, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(one.ids, again.ids)
    assert not np.array_equal(one.ids, other.ids)
    assert one.facts == again.facts
    assert one.facts["rows"] == sorted(set(one.facts["rows"]))
    assert one.facts["tokens"] == 10 * 8
    known = dict(zip(one.facts["rows"], one.facts["rows_sha256"], strict=True))
    drawn = dict(zip(other.facts["rows"], other.facts["rows_sha256"], strict=True))
    assert all(known[row] == drawn[row] for row in known.keys() & drawn.keys())  # a row has one hash, whoever drew it


def test_bos_stands_before_documents_and_not_inside_running_text(vocabulary: Vocabulary, source: Write) -> None:
    collection, running = source("a.jsonl", '"abc"\n"defg"\n"hijklmnop"'), source("a.txt", "abcdefghijklmnop")
    made = calibrate(vocabulary, collection, samples=2)
    assert [letters(row, vocabulary) for row in made.ids] == ["^abc^def", "g^hijklm"]
    made = calibrate(vocabulary, running, samples=2)
    assert [letters(row, vocabulary) for row in made.ids] == ["abcdefgh", "ijklmnop"]


def test_a_tokenizer_without_bos_runs_documents_together(without_bos: Vocabulary, source: Write) -> None:
    made = calibrate(without_bos, source("a.jsonl", '"abc"\n"defgh"'), samples=1)
    assert letters(made.ids[0], without_bos) == "abcdefgh"


def test_too_little_text_is_refused_with_the_numbers(vocabulary: Vocabulary, source: Write) -> None:
    path = source("a.txt", "x" * 31)
    assert len(calibrate(vocabulary, path, samples=3).ids) == 3
    with pytest.raises(RequestError, match=r"a\.txt holds 3 windows of 8 tokens; 4 are asked for\. Ask for fewer"):
        calibrate(vocabulary, path, samples=4)


def test_a_window_may_not_exceed_the_models_context(vocabulary: Vocabulary, source: Write) -> None:
    path = source("a.txt", "x" * 64)
    assert calibrate(vocabulary, path, context=8).ids.shape == (4, 8)
    with pytest.raises(RequestError, match=r"^calibration\.length: 8 tokens exceed the model's context of 7$"):
        calibrate(vocabulary, path, context=7)
    with pytest.raises(RequestError, match=r"^perplexity\.length: 8 tokens exceed the model's context of 7$"):
        heldout(vocabulary, Perplexity(source=path, length=8), context=7)


def test_tokens_are_taken_as_they_are(vocabulary: Vocabulary, tmp_path: Path) -> None:
    rows = np.arange(64).reshape(8, 8)
    np.save(tmp_path / "a.npy", rows)
    assert np.array_equal(calibrate(vocabulary, str(tmp_path / "a.npy"), samples=8).ids, rows)


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((9, 7), np.int64), r"holds int64\[9, 7\]; tokens are int64\[n, 8\]"),
        (np.zeros((9, 8), np.int32), r"holds int32\[9, 8\]; tokens are int64\[n, 8\]"),
        (np.zeros(8, np.int64), r"holds int64\[8\]; tokens are int64\[n, 8\]"),
        (np.array([{}]), "not an array of tokens: "),
        (None, "not an array of tokens: "),
    ],
    ids=["length", "type", "rank", "pickled", "empty"],
)
def test_tokens_of_another_form_are_refused(
    vocabulary: Vocabulary, tmp_path: Path, array: np.ndarray | None, reason: str
) -> None:
    path = tmp_path / "a.npy"
    path.touch() if array is None else np.save(path, array)
    with pytest.raises(RequestError, match=rf"a\.npy: {reason}"):
        calibrate(vocabulary, str(path))


@pytest.mark.parametrize("token", [-1, 64])
def test_tokens_that_the_model_does_not_know_are_refused(vocabulary: Vocabulary, tmp_path: Path, token: int) -> None:
    """A Gather takes -1 for the last word, and says nothing."""
    path, known = tmp_path / "a.npy", json.loads((vocabulary.folder / "config.json").read_text())
    (vocabulary.folder / "config.json").write_text(json.dumps(known | {"vocab_size": 64}))
    np.save(path, np.full((9, 8), token))
    with pytest.raises(RequestError, match=rf"a\.npy: holds tokens from {token} to {token}; the model knows 0 to 63"):
        calibrate(vocabulary, str(path))


# --- held-out windows ------------------------------------------------------------------------------------------------


def test_packed_windows_cut_the_text_every_length_tokens(vocabulary: Vocabulary, source: Write) -> None:
    path = source("a.jsonl", '"abc"\n"defg"\n"hijkl"')
    made = heldout(vocabulary, Perplexity(source=path, windows="packed", length=4))
    assert [letters(row, vocabulary) for row in made.ids] == ["^abc", "^def", "g^hi"]
    assert made.predicted == made.facts["predicted"] == 3 * 3


@pytest.mark.parametrize("windows", ["packed", "documents"])
def test_held_out_text_lies_in_the_field_that_is_named(vocabulary: Vocabulary, source: Write, windows: str) -> None:
    path = source("a.jsonl", '{"story": {"en": "abc"}}')
    asked = {"source": path, "windows": windows, "length": 4, "text_field": "story.en"}
    made = heldout(vocabulary, Perplexity.model_validate(asked))
    assert [letters(row, vocabulary) for row in made.ids] == ["^abc"]


def test_packed_windows_stop_after_the_asked_tokens(vocabulary: Vocabulary, source: Write) -> None:
    path = source("a.txt", "x" * 100)
    assert heldout(vocabulary, Perplexity(source=path, length=8, tokens=31)).ids.shape == (3, 8)


def test_document_windows_hold_bos_and_one_document(vocabulary: Vocabulary, source: Write) -> None:
    path = source("a.jsonl", '"abc"\n""\n"defghijk"\n"l"')
    made = heldout(vocabulary, Perplexity(source=path, windows="documents", length=6))
    rows = [letters(ids[mask == 1], vocabulary) for ids, mask in zip(made.ids, made.mask, strict=True)]
    assert rows == ["^abc", "^defgh", "^l"]
    assert made.mask.tolist() == [[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0]]


@pytest.mark.parametrize("tokens", range(2, 21))
def test_document_windows_predict_exactly_the_asked_tokens(vocabulary: Vocabulary, source: Write, tokens: int) -> None:
    path = source("a.jsonl", "\n".join(['"abcd"', '"efghi"', '"jklmnopqrstuvwxyz"']))
    made = heldout(vocabulary, Perplexity(source=path, windows="documents", length=18, tokens=tokens))
    assert made.predicted == made.facts["predicted"] == tokens


def test_without_bos_the_first_token_of_a_document_is_not_predicted(without_bos: Vocabulary, source: Write) -> None:
    path = source("a.jsonl", '"abcd"\n"e"\n"fgh"')
    made = heldout(without_bos, Perplexity(source=path, windows="documents", length=8))
    assert (len(made.ids), made.predicted) == (2, 3 + 2)


@pytest.mark.parametrize("windows", ["packed", "documents"])
def test_a_source_without_one_window_is_refused(without_bos: Vocabulary, source: Write, windows: str) -> None:
    path = source("a.jsonl", '"a"\n"b"')
    options = Perplexity.model_validate({"source": path, "windows": windows, "length": 8})
    with pytest.raises(RequestError, match="holds not one window of 8 tokens"):
        heldout(without_bos, options)


# --- conversations ---------------------------------------------------------------------------------------------------

TEMPLATE = "{% for one in messages %}{{ one.role[0] }}:{{ one.content }};{% endfor %}"


def conversations(*contents: str) -> str:
    rows = [{"messages": [{"role": "user", "content": "hi"}, {"role": "bot", "content": one}]} for one in contents]
    return "\n".join(json.dumps(row) for row in rows)


def test_conversations_are_written_by_the_chat_template(vocabulary: Vocabulary, source: Write, tmp_path: Path) -> None:
    """What stands before a conversation is the template's to say: no BOS is put there."""
    write_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    own = Vocabulary(tmp_path, BOS)
    options = Calibration(source=source("a.jsonl", conversations("abc", "defg")), samples=2, length=11)
    windows = calibration.calibration_windows(options, own, None)
    (text,) = vocabulary.encode(["u:hi;b:abc;u:hi;b:defg;"])
    assert windows.ids.flatten().tolist() == text[:22]


def test_conversations_without_a_template_are_refused(vocabulary: Vocabulary, source: Write) -> None:
    options = Calibration(source=source("a.jsonl", conversations("abc")), samples=1, length=8)
    with pytest.raises(RequestError, match="its tokenizer has no chat template, and rows of `messages` need one"):
        calibration.calibration_windows(options, vocabulary, None)
