"""Text becomes windows of tokens: nothing made up, chosen by seed, counted exactly, refused where it is too little.

The tokenizer of these tests has a token a byte, so that tokens can be counted by eye; BOS is 256.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from compressor import builtin, calibration
from compressor.calibration import Vocabulary, Windows
from compressor.errors import MachineError, RequestError
from compressor.limits import Perplexity
from compressor.recipe import Calibration

BOS = 256


def write_tokenizer(folder: Path) -> None:
    """A token a byte; set to add BOS, to pad and to cut, none of which may reach our windows."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = {letter: index for index, letter in enumerate(alphabet)} | {"<s>": BOS}
    tokenizer = Tokenizer(models.BPE(tokens, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=50)
    tokenizer.save(str(folder / "tokenizer.json"))


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    (folder / "config.json").write_text(json.dumps({"bos_token_id": BOS}))
    return Vocabulary.of(folder)


@pytest.fixture
def without_bos(vocabulary: Vocabulary) -> Vocabulary:
    return Vocabulary(vocabulary.folder, bos=None)


@pytest.fixture
def source(tmp_path: Path) -> Callable[[str, str | bytes], str]:
    def write(name: str, content: str | bytes) -> str:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    return write


Write = Callable[[str, str | bytes], str]


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


# --- sources ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "documents", "running"),
    [
        ("a.txt", "one\ntwo\n", ("one\ntwo\n",), True),
        ("a.raw", "one", ("one",), True),
        ("a.md", "# one", ("# one",), True),
        ("a.json", '["one", "two"]', ("one", "two"), False),
        ("a.json", '[{"text": "one", "id": 1},\n {"text": "two"}]', ("one", "two"), False),
        ("a.json", '{"text": "one"}\n{"text": "two"}\n', ("one", "two"), False),
        ("a.jsonl", '{"text": "one"}\r\n\n"two"\n  \n', ("one", "two"), False),
        ("a.jsonl", '"a line\u2028of its own"\n', ("a line\u2028of its own",), False),
    ],
)
def test_every_kind_of_file_gives_its_documents(
    source: Write, name: str, content: str, documents: tuple[str, ...], running: bool
) -> None:
    corpus = calibration.read(source(name, content), "calibration")
    assert (corpus.documents, corpus.running, corpus.source) == (documents, running, name)


def test_parquet_gives_its_text_column(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["one", "two"], "id": [1, 2]}), path)
    assert calibration.read(str(path), "calibration").documents == ("one", "two")


def test_builtin_splits_share_no_document() -> None:
    if not builtin.CALIBRATION.is_file():
        pytest.skip("the built-in model is not there; `make model` makes it")
    ours, theirs = (set(calibration.read("builtin", split).documents) for split in ("calibration", "heldout"))
    assert ours
    assert theirs
    assert not ours & theirs


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.txt", b"caf\xe9", "cannot be read: 'utf-8' codec can't decode byte 0xe9"),
        ("a.txt", " \n", "holds no text"),
        ("a.json", "[]", "holds no text"),
        ("a.json", '{"text": "one"', "not JSON: "),
        ("a.jsonl", '{"text": "one"}\n{"body": "two"}', "a row is dict; rows are strings or objects with a `text` str"),
        ("a.jsonl", '{"text": null}', "a row is dict; rows are strings or objects with a `text` string"),
        ("a.json", "[1]", "a row is int; rows are strings or objects with a `text` string"),
        ("a.parquet", b"PAR1 no more", "not a readable parquet file: "),
        (
            "a.csv",
            "text\none",
            "text is read from .json, .jsonl, .md, .parquet, .raw, .txt; convert it to one of these",
        ),
    ],
)
def test_a_file_that_gives_no_text_is_refused_in_one_line(
    source: Write, name: str, content: str | bytes, reason: str
) -> None:
    path = source(name, content)
    with pytest.raises(RequestError) as caught:
        calibration.read(path, "calibration")
    assert str(caught.value).startswith(f"{path}: {reason}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["missing.txt", "missing.jsonl", "missing.parquet"])
def test_a_missing_file_is_a_wrong_request_and_no_dataset(name: str) -> None:
    with pytest.raises(RequestError, match=rf"^{name}: no such file$"):
        calibration.read(name, "calibration")


def test_a_dataset_without_network_is_the_machines_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("Couldn't reach 'nobody/nothing' on the Hub")

    monkeypatch.setattr("datasets.load_dataset", unreachable)
    with pytest.raises(MachineError, match=r"^nobody/nothing: the hub cannot be reached \(.+\); name a local file$"):
        calibration.read("nobody/nothing", "calibration")


@pytest.mark.parametrize(
    ("name", "split", "asked"),
    [
        ("a/b", "calibration", ("a/b", None, "train")),
        ("a/b", "heldout", ("a/b", None, "test")),
        ("a/b:c", "heldout", ("a/b", "c", "test")),
        ("a/b::validation", "calibration", ("a/b", None, "validation")),
        ("a/b:c:validation", "heldout", ("a/b", "c", "validation")),
    ],
)
def test_a_dataset_is_named_with_configuration_and_split(
    monkeypatch: pytest.MonkeyPatch, name: str, split: calibration.Split, asked: tuple[str | None, ...]
) -> None:
    def load(dataset: str, config: str | None, *, split: str) -> list[dict[str, str]]:
        assert (dataset, config, split) == asked
        return [{"text": "one"}]

    monkeypatch.setattr("datasets.load_dataset", load)
    assert calibration.read(name, split).documents == ("one",)


def test_a_source_is_known_by_its_bytes(source: Write) -> None:
    one, same, other = source("a.txt", "one"), source("b.txt", "one"), source("c.txt", "two")
    assert calibration.fingerprint(one) == calibration.fingerprint(same) != calibration.fingerprint(other)
    assert calibration.fingerprint("nobody/nothing") == "nobody/nothing"


# --- the tokenizer ---------------------------------------------------------------------------------------------------


def test_documents_are_encoded_as_they_are(vocabulary: Vocabulary) -> None:
    """No BOS, no padding and no cut of the tokenizer's own."""
    assert [len(ids) for ids in vocabulary.encode(["abcdefgh", "ab", ""])] == [8, 2, 0]


@pytest.mark.parametrize(
    ("config", "bos"),
    [({"bos_token_id": 5}, 5), ({"bos_token_id": [5, 6]}, 5), ({"text_config": {"bos_token_id": 5}}, 5), ({}, None)],
)
def test_the_configuration_names_bos(tmp_path: Path, config: dict[str, object], bos: int | None) -> None:
    (tmp_path / "tokenizer.json").touch()
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert Vocabulary.of(tmp_path).bos == bos


@pytest.mark.parametrize("only", ["tokenizer.json", "config.json"])
def test_a_folder_without_tokenizer_or_configuration_is_refused(tmp_path: Path, only: str) -> None:
    (tmp_path / only).write_text("{}")
    with pytest.raises(RequestError, match=r"no tokenizer\.json with config\.json"):
        Vocabulary.of(tmp_path)


def test_a_broken_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(RequestError, match=r"tokenizer\.json: not a tokenizer: "):
        Vocabulary.of(tmp_path).encode(["a"])


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


def test_a_source_that_cannot_be_read_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """datasets logs what it then raises."""
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1 no more")
    with pytest.raises(RequestError, match="not a readable parquet file"):
        calibration.read(str(path), "calibration")
    assert caplog.records == []


# --- held-out windows ------------------------------------------------------------------------------------------------


def test_packed_windows_cut_the_text_every_length_tokens(vocabulary: Vocabulary, source: Write) -> None:
    path = source("a.jsonl", '"abc"\n"defg"\n"hijkl"')
    made = heldout(vocabulary, Perplexity(source=path, windows="packed", length=4))
    assert [letters(row, vocabulary) for row in made.ids] == ["^abc", "^def", "g^hi"]
    assert made.predicted == made.facts["predicted"] == 3 * 3


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


def test_conversations_are_written_by_the_chat_template(
    vocabulary: Vocabulary, source: Callable[[str, str | bytes], str], tmp_path: Path
) -> None:
    """What stands before a conversation is the template's to say: no BOS is put there."""
    write_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    own = Vocabulary(tmp_path, BOS)
    options = Calibration(source=source("a.jsonl", conversations("abc", "defg")), samples=2, length=11)
    windows = calibration.calibration_windows(options, own, None)
    (text,) = vocabulary.encode(["u:hi;b:abc;u:hi;b:defg;"])
    assert windows.ids.flatten().tolist() == text[:22]


def test_conversations_without_a_template_and_mixed_rows_are_refused(
    vocabulary: Vocabulary, source: Callable[[str, str | bytes], str]
) -> None:
    options = Calibration(source=source("a.jsonl", conversations("abc")), samples=1, length=8)
    with pytest.raises(RequestError, match="its tokenizer has no chat template, and rows of `messages` need one"):
        calibration.calibration_windows(options, vocabulary, None)
    mixed = conversations("abc") + '\n"text"'
    with pytest.raises(RequestError, match="some rows hold `messages` and some do not; keep one kind"):
        calibration.read(source("b.jsonl", mixed), "calibration")
