"""Text becomes windows of tokens: for calibration chosen by seed, for what is held out from the beginning.

    source  ->  documents  ->  tokens  ->  Windows(ids [n, length], mask [n, length])

Calibration windows are cut from the text run together, so they hold no padding. What was read is hashed, which
windows were chosen is listed, and a source that is too small is refused.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compressor import sources
from compressor.data.corpus import Corpus, Fields, read
from compressor.data.vocabulary import Vocabulary
from compressor.errors import RequestError, in_a_line
from compressor.recipe.limits import Perplexity
from compressor.recipe.recipe import Calibration

TOKENS = ".npy"  # windows already tokenized


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
    corpus = read(options.source, "calibration", Fields(options.text_field))
    rows = _cut(corpus, vocabulary, options.length, framed=framed)
    return _chosen(rows, {"source": corpus.source, "sha256": corpus.sha256}, options)


def heldout_windows(options: Perplexity, vocabulary: Vocabulary, context: int | None) -> Windows:
    """The windows that perplexity is measured on, from the beginning of the source.

    packed: the text cut every `length` tokens. documents: BOS and one document a window, at most `length` tokens.
    Raises: RequestError as `calibration_windows`.
    """
    if context is not None and options.length > context:
        raise RequestError(f"perplexity.length: {options.length} tokens exceed the model's context of {context}")
    corpus = read(options.source, "heldout", Fields(options.text_field))
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


def framed_windows(source: str, text_field: str, length: int, vocabulary: Vocabulary) -> NDArray[np.int64]:
    """Windows of held-out text as an encoder reads it, [n, length], from the beginning of the source.

    Raises: RequestError when the source cannot be read or holds not one window.
    """
    rows = _cut(read(source, "heldout", Fields(text_field)), vocabulary, length, framed=True)
    if not len(rows):
        raise RequestError(f"{source}: holds not one window of {length} tokens")
    return rows


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
