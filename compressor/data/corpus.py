"""Text as its source has it: documents of a file, of a dataset, or of those that come with the built-in model.

    read("a.jsonl", "calibration")                              ->    Corpus(documents, source, sha256)
    read("a.jsonl", "calibration", Fields("text", "target"))    ->    ... and what is written from each of them

A source that is empty or mixes kinds of rows is refused: nothing is ever made up.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from compressor import builtin
from compressor.errors import MachineError, RequestError, in_a_line

BUILTIN = "builtin"
MESSAGES = "messages"  # of a row that is a conversation: [{"role": ..., "content": ...}, ...]
Split = Literal["calibration", "heldout"]


@dataclass(frozen=True)
class Fields:
    """Where a row that is an object holds its text, and the text that is written from it; `a.b` is b within a."""

    text: str = "text"
    target: str | None = None


TEXT = Fields()


@dataclass(frozen=True)
class Corpus:
    """Documents of one source.

    running: one text whose pieces follow each other, so no BOS goes between them. conversations: each document is a
    JSON list of messages, which the model's chat template makes a text of.
    """

    documents: tuple[str, ...] = field(repr=False)
    source: str
    sha256: str
    running: bool = False
    conversations: bool = False
    targets: tuple[str, ...] = field(default=(), repr=False)


def read(source: str, split: Split, fields: Fields = TEXT) -> Corpus:
    """Documents of a source: `builtin`, a file, or a dataset id `name[:config[:split]]`.

    Raises: RequestError when it cannot be read or is empty.
    """
    if source == BUILTIN:
        path = builtin.CALIBRATION if split == "calibration" else builtin.HELDOUT
        corpus = Corpus(tuple(_file(path).splitlines()), f"{BUILTIN} {split}", _sha256(_file(path)))
    elif Path(source).is_file():
        corpus = _from_file(Path(source), fields)
    elif Path(source).suffix in _READERS:
        raise RequestError(f"{source}: no such file")
    else:
        corpus = _from_dataset(source, split, fields)
    if not any(document.strip() for document in corpus.documents):
        raise RequestError(f"{source}: holds no text")
    return corpus


def fingerprint(source: str) -> str:
    """What a source is known by before it is read: the SHA-256 of its bytes, or the name of a dataset."""
    path = builtin.CALIBRATION if source == BUILTIN else Path(source)
    if path.is_dir():
        files = sorted(one for one in path.rglob("*") if one.is_file())
        parts = [f"{one.relative_to(path)} {hashlib.sha256(one.read_bytes()).hexdigest()}" for one in files]
        return _sha256("\n".join(parts))
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else source


def _from_file(path: Path, fields: Fields) -> Corpus:
    reader = _READERS.get(path.suffix)
    if reader is None:
        raise RequestError(f"{path}: text is read from {', '.join(sorted(_READERS))}; convert it to one of these")
    return reader(path, fields)


def _plain(path: Path, fields: Fields) -> Corpus:
    del fields  # one running text has none
    return Corpus((_file(path),), path.name, _sha256(_file(path)), running=True)


def _json(path: Path, fields: Fields) -> Corpus:
    """A JSON list, or JSON lines, of strings or of objects with the fields or `messages`."""
    text = _file(path)
    lines = [line for line in text.split("\n") if line.strip()]  # splitlines would cut strings at U+2028 as well
    try:
        rows = json.loads(text) if text.lstrip().startswith("[") else [json.loads(line) for line in lines]
    except ValueError as error:
        raise RequestError(f"{path}: not JSON: {error}") from None
    return _collection(rows, path.name, str(path), fields)


def _parquet(path: Path, fields: Fields) -> Corpus:
    from datasets import load_dataset

    try:
        with _silence():
            rows = load_dataset("parquet", data_files=str(path), split="train")
    except Exception as error:  # as many kinds as pyarrow and datasets have between them
        raise RequestError(f"{path}: not a readable parquet file: {in_a_line(error)}") from None
    return _collection(rows, path.name, str(path), fields)


_READERS = {
    ".txt": _plain,
    ".raw": _plain,
    ".md": _plain,
    ".json": _json,
    ".jsonl": _json,
    ".parquet": _parquet,
}


def _from_dataset(source: str, split: Split, fields: Fields) -> Corpus:
    """A dataset of the Hugging Face hub; its code is never run."""
    from datasets import load_dataset

    name, config, wanted = (*source.split(":"), "", "")[:3]
    wanted = wanted or ("train" if split == "calibration" else "test")
    try:
        with _silence():
            rows = load_dataset(name, config or None, split=wanted)
    except (ConnectionError, TimeoutError) as error:
        raise MachineError(f"{source}: the hub cannot be reached ({in_a_line(error)}); name a local file") from error
    except Exception as error:  # datasets raises many kinds, all of them about the request
        raise RequestError(f"{source}: neither a file nor a dataset that can be loaded ({in_a_line(error)})") from error
    return _collection(rows, source, source, fields)


def _collection(rows: Iterable[object], name: str, where: str, fields: Fields) -> Corpus:
    """Rows of text, with their targets where those are wanted, or of conversations, as one corpus; one kind alone."""
    given = list(rows)
    kinds = {isinstance(row, dict) and isinstance(row.get(MESSAGES), list) for row in given}
    if len(kinds) > 1:
        raise RequestError(f"{where}: some rows hold `{MESSAGES}` and some do not; keep one kind")
    documents = [_text_of(row, where, fields.text) for row in given]
    targets = [_target_of(row, where, fields.target) for row in given if isinstance(row, dict) and fields.target]
    if targets and len(targets) < len(given):
        raise RequestError(f"{where}: some rows are strings and some are objects; keep one kind")
    sha256 = _sha256("\0".join([*documents, *targets]))
    return Corpus(tuple(documents), name, sha256, conversations=kinds == {True}, targets=tuple(targets))


def _text_of(row: object, source: str, field: str) -> str:
    if isinstance(row, dict) and isinstance(row.get(MESSAGES), list):
        return json.dumps(row[MESSAGES], sort_keys=True, ensure_ascii=False)
    text = _looked_up(row, field) if isinstance(row, dict) else row
    if not isinstance(text, str):
        raise RequestError(
            f"{source}: a row is {type(row).__name__}; "
            f"rows are strings or objects with a `{field}` string or `{MESSAGES}`"
        )
    return text


def _target_of(row: dict[str, object], source: str, field: str | None) -> str:
    target = _looked_up(row, field or "")
    if not isinstance(target, str):
        raise RequestError(
            f"{source}: a row has no `{field}` string, which the decoder would write from its text; "
            "name its field in calibration.target_field, the text's own where it is to write that"
        )
    return target


def _looked_up(row: object, field: str) -> object:
    for name in field.split("."):
        row = row.get(name) if isinstance(row, dict) else None
    return row


def _file(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{path}: cannot be read: {in_a_line(error)}") from None


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """What datasets and the hub's client log of a failure, retry by retry, is said once, by what they raise."""
    loggers = [logging.getLogger(name) for name in ("datasets", "huggingface_hub")]
    before = [one.level for one in loggers]
    try:
        for one in loggers:
            one.setLevel(logging.CRITICAL)
        yield
    finally:
        for one, level in zip(loggers, before, strict=True):
            one.setLevel(level)
