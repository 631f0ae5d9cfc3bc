"""A source gives its documents as they are, is known by its bytes, and is refused in one line where it holds none."""

from __future__ import annotations

from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from compressor import builtin
from compressor.data import corpus
from compressor.errors import MachineError, RequestError
from tests.conftest import Write


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
    found = corpus.read(source(name, content), "calibration")
    assert (found.documents, found.running, found.source) == (documents, running, name)


def test_parquet_gives_its_text_column(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["one", "two"], "id": [1, 2]}), path)
    assert corpus.read(str(path), "calibration").documents == ("one", "two")


def test_builtin_splits_share_no_document() -> None:
    if not builtin.CALIBRATION.is_file():
        pytest.skip("the built-in model is not there; `make model` makes it")
    ours, theirs = (set(corpus.read("builtin", split).documents) for split in ("calibration", "heldout"))
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
        corpus.read(path, "calibration")
    assert str(caught.value).startswith(f"{path}: {reason}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["missing.txt", "missing.jsonl", "missing.parquet"])
def test_a_missing_file_is_a_wrong_request_and_no_dataset(name: str) -> None:
    with pytest.raises(RequestError, match=rf"^{name}: no such file$"):
        corpus.read(name, "calibration")


def test_a_dataset_without_network_is_the_machines_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("Couldn't reach 'nobody/nothing' on the Hub")

    monkeypatch.setattr("datasets.load_dataset", unreachable)
    with pytest.raises(MachineError, match=r"^nobody/nothing: the hub cannot be reached \(.+\); name a local file$"):
        corpus.read("nobody/nothing", "calibration")


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
    monkeypatch: pytest.MonkeyPatch, name: str, split: corpus.Split, asked: tuple[str | None, ...]
) -> None:
    def load(dataset: str, config: str | None, *, split: str) -> list[dict[str, str]]:
        assert (dataset, config, split) == asked
        return [{"text": "one"}]

    monkeypatch.setattr("datasets.load_dataset", load)
    assert corpus.read(name, split).documents == ("one",)


def test_a_source_is_known_by_its_bytes(source: Write) -> None:
    one, same, other = source("a.txt", "one"), source("b.txt", "one"), source("c.txt", "two")
    assert corpus.fingerprint(one) == corpus.fingerprint(same) != corpus.fingerprint(other)
    assert corpus.fingerprint("nobody/nothing") == "nobody/nothing"


def test_a_source_that_cannot_be_read_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """datasets logs what it then raises."""
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1 no more")
    with pytest.raises(RequestError, match="not a readable parquet file"):
        corpus.read(str(path), "calibration")
    assert caplog.records == []


def test_rows_of_text_and_conversations_do_not_mix(source: Write) -> None:
    mixed = '{"messages": [{"role": "user", "content": "hi"}]}\n"text"'
    with pytest.raises(RequestError, match="some rows hold `messages` and some do not; keep one kind"):
        corpus.read(source("b.jsonl", mixed), "calibration")
