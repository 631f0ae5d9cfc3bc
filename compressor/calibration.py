"""Text becomes windows of tokens; the one place that reads and samples data.

    source  ->  documents  ->  tokens  ->  Windows(ids [n, length], mask [n, length])

Calibration windows are cut from the text run together, so they hold no padding. What was read is hashed, which
windows were chosen is listed, and a source that is too small is refused: nothing is ever made up.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from compressor import builtin, sources
from compressor.errors import MachineError, RequestError, in_a_line
from compressor.limits import Perplexity
from compressor.recipe import Calibration
from compressor.sources import TOKENIZER

BUILTIN = "builtin"
TOKENS = ".npy"  # windows already tokenized
MESSAGES = "messages"  # of a row that is a conversation: [{"role": ..., "content": ...}, ...]
Split = Literal["calibration", "heldout"]


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


@dataclass(frozen=True)
class Windows:
    """Token windows, right-padded where the mask is 0; `facts` say where they came from."""

    ids: NDArray[np.int64] = field(repr=False)
    mask: NDArray[np.int64] = field(repr=False)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def predicted(self) -> int:
        """Tokens that a decoder predicts from the ones before them."""
        return int(self.mask[:, 1:].sum())


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer and the token that begins a document, as the model's folder names them."""

    folder: Path
    bos: int | None

    @classmethod
    def of(cls, folder: Path) -> Vocabulary:
        """Raises: RequestError when the folder holds no tokenizer, or no configuration that names the first token."""
        if not sources.has_tokenizer(folder):
            raise RequestError(
                f"{folder}: no {TOKENIZER} with {sources.CONFIG}; text cannot be read without the model's tokenizer"
            )
        bos = sources.config(folder).get("bos_token_id")
        return cls(folder, bos[0] if isinstance(bos, list) else bos)

    def encode(self, documents: Sequence[str]) -> list[list[int]]:
        """Tokens of each document, no special token added."""
        return [one.ids for one in self._tokenizer().encode_batch(list(documents), add_special_tokens=False)]

    def render(self, conversations: Sequence[str]) -> list[str]:
        """JSON lists of messages as the model's chat template writes them, the special tokens in their places.

        Raises: RequestError when the folder has no template, or the template refuses the messages.
        """
        from transformers import PreTrainedTokenizerFast

        tokenizer = PreTrainedTokenizerFast.from_pretrained(str(self.folder), local_files_only=True)
        if not tokenizer.chat_template:
            raise RequestError(f"{self.folder}: its tokenizer has no chat template, and rows of `messages` need one")
        try:
            return [tokenizer.apply_chat_template(json.loads(one), tokenize=False) for one in conversations]
        except Exception as error:  # a template is a program of its own
            raise RequestError(f"{self.folder}: its chat template refuses the messages: {in_a_line(error)}") from None

    def frame(self) -> tuple[list[int], list[int]]:
        """The special tokens that an encoder has before and after a text: [CLS] and [SEP] for BERT."""
        framed = self._tokenizer().encode("a", add_special_tokens=True)
        text = [at for at, special in enumerate(framed.special_tokens_mask) if not special]
        first, last = (text[0], text[-1] + 1) if text else (len(framed.ids), len(framed.ids))
        return framed.ids[:first], framed.ids[last:]

    def _tokenizer(self) -> Any:
        from tokenizers import Tokenizer

        try:
            tokenizer = Tokenizer.from_file(str(self.folder / TOKENIZER))
        except Exception as error:  # tokenizers raises nothing narrower
            raise RequestError(f"{self.folder / TOKENIZER}: not a tokenizer: {in_a_line(error)}") from None
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer


def calibration_windows(
    options: Calibration, vocabulary: Vocabulary, context: int | None, *, framed: bool = False
) -> Windows:
    """The windows that statistics are gathered on: `samples` of `length` tokens, chosen by `seed`, in text order.

    framed: each window stands between the special tokens that an encoder was trained with, which count in its length.
    Raises: RequestError when the source cannot be read, is too small, or a window exceeds the model's context.
    """
    if context is not None and options.length > context:
        raise RequestError(f"calibration.length: {options.length} tokens exceed the model's context of {context}")
    if Path(options.source).suffix == TOKENS:
        return _chosen(*_token_rows(options, sources.config(vocabulary.folder).get("vocab_size")), options)
    corpus = read(options.source, "calibration")
    rows = _cut(corpus, vocabulary, options.length, framed=framed)
    return _chosen(rows, {"source": corpus.source, "sha256": corpus.sha256}, options)


def _chosen(windows: NDArray[np.int64], read_from: dict[str, Any], options: Calibration) -> Windows:
    """`samples` of the windows [n, length], by seed and in order."""
    available = len(windows)
    if available < options.samples:
        raise RequestError(
            f"calibration.source: {options.source} holds {available} windows of {options.length} tokens; "
            f"{options.samples} are asked for. Ask for fewer samples or bring more text"
        )
    rows = sorted(random.Random(options.seed).sample(range(available), options.samples))
    ids = windows[rows]
    facts = read_from | {"seed": options.seed, "length": options.length}
    facts |= {"rows": rows, "rows_sha256": [hashlib.sha256(row.tobytes()).hexdigest()[:16] for row in ids]}
    facts |= {"tokens": int(ids.size), "tokens_sha256": hashlib.sha256(ids.tobytes()).hexdigest()}
    return Windows(ids, np.ones_like(ids), facts)


def heldout_windows(options: Perplexity, vocabulary: Vocabulary, context: int | None) -> Windows:
    """The windows that perplexity is measured on, from the beginning of the source.

    packed: the text cut every `length` tokens. documents: BOS and one document a window, at most `length` tokens.
    Raises: RequestError as `calibration_windows`.
    """
    if context is not None and options.length > context:
        raise RequestError(f"perplexity.length: {options.length} tokens exceed the model's context of {context}")
    corpus = read(options.source, "heldout")
    if options.windows == "packed":
        stream = _stream(corpus, vocabulary)[: options.tokens]
        rows = [stream[at : at + options.length] for at in range(0, len(stream), options.length)]
        rows = [row for row in rows if len(row) == options.length]
    else:
        rows = _document_rows(corpus, vocabulary, options)
    if not rows:
        raise RequestError(f"perplexity.source: {options.source} holds not one window of {options.length} tokens")
    windows = _padded(rows)
    facts = {"source": corpus.source, "sha256": corpus.sha256, "windows": options.windows, "count": len(rows)}
    return Windows(windows.ids, windows.mask, facts | {"predicted": windows.predicted})


def framed_windows(source: str, length: int, vocabulary: Vocabulary) -> NDArray[np.int64]:
    """Windows of held-out text as an encoder reads it, [n, length], from the beginning of the source.

    Raises: RequestError when the source cannot be read or holds not one window.
    """
    rows = _cut(read(source, "heldout"), vocabulary, length, framed=True)
    if not len(rows):
        raise RequestError(f"{source}: holds not one window of {length} tokens")
    return rows


def fingerprint(source: str) -> str:
    """What a source is known by before it is read: the SHA-256 of its bytes, or the name of a dataset."""
    path = builtin.CALIBRATION if source == BUILTIN else Path(source)
    if path.is_dir():
        files = sorted(one for one in path.rglob("*") if one.is_file())
        parts = [f"{one.relative_to(path)} {hashlib.sha256(one.read_bytes()).hexdigest()}" for one in files]
        return _sha256("\n".join(parts))
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else source


def read(source: str, split: Split) -> Corpus:
    """Documents of a source: `builtin`, a file, or a dataset id `name[:config[:split]]`.

    Raises: RequestError when it cannot be read or is empty.
    """
    if source == BUILTIN:
        path = builtin.CALIBRATION if split == "calibration" else builtin.HELDOUT
        corpus = Corpus(tuple(_file(path).splitlines()), f"{BUILTIN} {split}", _sha256(_file(path)))
    elif Path(source).is_file():
        corpus = _from_file(Path(source))
    elif Path(source).suffix in _READERS:
        raise RequestError(f"{source}: no such file")
    else:
        corpus = _from_dataset(source, split)
    if not any(document.strip() for document in corpus.documents):
        raise RequestError(f"{source}: holds no text")
    return corpus


def _token_rows(options: Calibration, words: int | None) -> tuple[NDArray[np.int64], dict[str, Any]]:
    """Windows that were tokenized before, int64 [n, length], and where they came from."""
    path = Path(options.source)
    try:
        rows = np.load(path, allow_pickle=False)
    except (OSError, EOFError, ValueError) as error:
        raise RequestError(f"{path}: not an array of tokens: {in_a_line(error)}") from None
    if rows.ndim != 2 or rows.dtype != np.int64 or rows.shape[1] != options.length:
        raise RequestError(f"{path}: holds {rows.dtype}{list(rows.shape)}; tokens are int64[n, {options.length}]")
    if rows.size and (rows.min() < 0 or rows.max() >= (words or np.inf)):
        held = f"{rows.min()} to {rows.max()}"
        raise RequestError(f"{path}: holds tokens from {held}; the model knows 0 to {words - 1 if words else 'more'}")
    return rows, {"source": path.name, "sha256": hashlib.sha256(rows.tobytes()).hexdigest()}


def _stream(corpus: Corpus, vocabulary: Vocabulary) -> list[int]:
    """The whole corpus as one run of tokens."""
    return [token for ids in _encoded(corpus, vocabulary) for token in ids]


def _encoded(corpus: Corpus, vocabulary: Vocabulary) -> list[list[int]]:
    """Tokens of each document; BOS before those of a collection, but for conversations, whose template has its own."""
    if corpus.conversations:
        return vocabulary.encode(vocabulary.render(corpus.documents))
    bos = [] if corpus.running or vocabulary.bos is None else [vocabulary.bos]
    return [[*bos, *ids] for ids in vocabulary.encode(corpus.documents)]


def _cut(corpus: Corpus, vocabulary: Vocabulary, length: int, *, framed: bool) -> NDArray[np.int64]:
    """The text in windows [n, length]; framed: each between an encoder's special tokens, which count in its length."""
    before, after = vocabulary.frame() if framed else ([], [])
    bare = Vocabulary(vocabulary.folder, None) if framed else vocabulary
    stream, room = _stream(corpus, bare), length - len(before) - len(after)
    count = len(stream) // room
    cut = np.array(stream[: count * room], np.int64).reshape(count, room)
    first, last = (np.tile(np.array(part, np.int64), (count, 1)) for part in (before, after))
    return np.concatenate([first, cut, last], 1)


def _document_rows(corpus: Corpus, vocabulary: Vocabulary, options: Perplexity) -> list[list[int]]:
    """BOS and a document a row, until `tokens` are predicted; the last row is cut to end there."""
    rows, left = [], options.tokens
    for ids in _encoded(replace(corpus, running=False), vocabulary):
        row = ids[: min(options.length, left + 1)]
        if len(row) > 1 and left > 0:
            rows.append(row)
            left -= len(row) - 1
    return rows


def _padded(rows: Sequence[Sequence[int]]) -> Windows:
    width = max(len(row) for row in rows)
    ids, mask = np.zeros((len(rows), width), np.int64), np.zeros((len(rows), width), np.int64)
    for index, row in enumerate(rows):
        ids[index, : len(row)], mask[index, : len(row)] = row, 1
    return Windows(ids, mask)


def _from_file(path: Path) -> Corpus:
    reader = _READERS.get(path.suffix)
    if reader is None:
        raise RequestError(f"{path}: text is read from {', '.join(sorted(_READERS))}; convert it to one of these")
    return reader(path)


def _collection(rows: Iterable[object], name: str, where: str) -> Corpus:
    """Rows of text, or of conversations, as one corpus; one kind alone."""
    given = list(rows)
    kinds = {isinstance(row, dict) and isinstance(row.get(MESSAGES), list) for row in given}
    if len(kinds) > 1:
        raise RequestError(f"{where}: some rows hold `{MESSAGES}` and some do not; keep one kind")
    documents = [_text_of(row, where) for row in given]
    return Corpus(tuple(documents), name, _sha256("\0".join(documents)), conversations=kinds == {True})


def _plain(path: Path) -> Corpus:
    return Corpus((_file(path),), path.name, _sha256(_file(path)), running=True)


def _json(path: Path) -> Corpus:
    """A JSON list, or JSON lines, of strings or of objects with `text` or `messages`."""
    text = _file(path)
    lines = [line for line in text.split("\n") if line.strip()]  # splitlines would cut strings at U+2028 as well
    try:
        rows = json.loads(text) if text.lstrip().startswith("[") else [json.loads(line) for line in lines]
    except ValueError as error:
        raise RequestError(f"{path}: not JSON: {error}") from None
    return _collection(rows, path.name, str(path))


def _parquet(path: Path) -> Corpus:
    from datasets import load_dataset

    try:
        with _silence():
            rows = load_dataset("parquet", data_files=str(path), split="train")
    except Exception as error:  # as many kinds as pyarrow and datasets have between them
        raise RequestError(f"{path}: not a readable parquet file: {in_a_line(error)}") from None
    return _collection(rows, path.name, str(path))


_READERS = {
    ".txt": _plain,
    ".raw": _plain,
    ".md": _plain,
    ".json": _json,
    ".jsonl": _json,
    ".parquet": _parquet,
}


def _from_dataset(source: str, split: Split) -> Corpus:
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
    return _collection(rows, source, source)


def _text_of(row: object, source: str) -> str:
    if isinstance(row, dict) and isinstance(row.get(MESSAGES), list):
        return json.dumps(row[MESSAGES], sort_keys=True, ensure_ascii=False)
    text = row.get("text") if isinstance(row, dict) else row
    if not isinstance(text, str):
        raise RequestError(
            f"{source}: a row is {type(row).__name__}; rows are strings or objects with a `text` string or `messages`"
        )
    return text


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
