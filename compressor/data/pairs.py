"""What an encoder reads and what the decoder behind it writes, as calls of the one or of the other.

    rows of text and target   a call for each pair, both cut at `length` tokens: no token is padding
    strings, running text     windows that are read and written both, as denoisers are trained

A decoder is given its target one token late, behind the token that it starts with, and what the float encoder makes of
the text: so it was trained, and so it is run.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from compressor import sources
from compressor.data.calibration import TOKENS, calibration_windows
from compressor.data.corpus import Corpus, Fields, read
from compressor.data.vocabulary import Vocabulary
from compressor.disk import digest
from compressor.errors import RequestError
from compressor.graph import encoder_decoder
from compressor.graph.decoder import IDS, MASK, Feeds
from compressor.graph.encoder_decoder import ENCODER, ENCODER_MASK
from compressor.graph.session import open_session
from compressor.recipe.recipe import Calibration

START = "decoder_start_token_id"


@dataclass(frozen=True)
class Pair:
    """A text and what is written from it, each between the special tokens of its model: int64 [1, tokens]."""

    text: NDArray[np.int64]
    target: NDArray[np.int64]

    @property
    def read(self) -> Feeds:
        """What an encoder is given."""
        return {IDS: self.text, MASK: np.ones_like(self.text)}


@dataclass(frozen=True)
class Pairs:
    """Pairs chosen by seed; `facts` say where they came from."""

    chosen: tuple[Pair, ...] = field(repr=False)
    facts: dict[str, Any]


def calibration_pairs(options: Calibration, vocabulary: Vocabulary, context: int | None) -> Pairs:
    """`samples` pairs of at most `length` tokens a side, chosen by `seed`, in the order of their source.

    Raises: RequestError when the source cannot be read, is too small, or `length` exceeds the model's context.
    """
    tokenized = Path(options.source).suffix == TOKENS
    fields = Fields(options.text_field, options.target_field)
    corpus = None if tokenized else read(options.source, "calibration", fields)
    if corpus is None or not corpus.targets:
        windows = calibration_windows(options, vocabulary, context, framed=True)
        return Pairs(tuple(Pair(row[None], row[None]) for row in windows.ids), windows.facts | {"targets": "the text"})
    if context is not None and options.length > context:
        raise RequestError(f"calibration.length: {options.length} tokens exceed the model's context of {context}")
    rows = _drawn(corpus, options)
    texts, targets = (_framed([side[row] for row in rows], vocabulary, options.length)
                      for side in (corpus.documents, corpus.targets))  # fmt: skip
    chosen = tuple(Pair(text, target) for text, target in zip(texts, targets, strict=True))
    hashes = [hashlib.sha256(pair.text.tobytes() + pair.target.tobytes()).hexdigest()[:16] for pair in chosen]
    facts = {"source": corpus.source, "sha256": corpus.sha256, "targets": options.target_field, "seed": options.seed}
    facts |= {"length": options.length, "rows": rows, "rows_sha256": hashes}
    return Pairs(chosen, facts | {"tokens": sum(pair.text.size + pair.target.size for pair in chosen)})


def written(pairs: Sequence[Pair], model: ir.Model, folder: Path) -> Iterator[Feeds]:
    """What the decoder of a folder is given, pair by pair; the encoder beside it is run on the text.

    Raises: RequestError when there is no such encoder, when it reads no text, when no token is named to start with, or
    when the decoder reads what neither gives.
    """
    start, encoder = sources.config(folder).get(START), folder / ENCODER
    if not encoder.is_file():
        raise RequestError(f"{folder}: the decoder reads an encoder's states, and no {ENCODER} lies beside it")
    if not isinstance(start, int):
        raise RequestError(f"{folder}: its configuration names no {START}; calibrate with arrays")
    session, states = open_session(encoder, "served"), encoder_decoder.states(model)
    given = [one.name for one in session.get_inputs()]
    if unread := [name for name in given if name not in (IDS, MASK)]:
        raise RequestError(f"{encoder}: reads {', '.join(unread)}, which text does not give; calibrate with arrays")
    names, past = [str(value.name) for value in model.graph.inputs], encoder_decoder.empty_past(model, 1)
    outputs = {one.name for one in session.get_outputs()}
    known = {IDS, ENCODER_MASK, *past, *(name for name, made in states.items() if made in outputs)}
    if unknown := [name for name in names if name not in known]:
        raise RequestError(
            f"{folder}: the decoder reads {', '.join(unknown)}, which neither text nor {ENCODER} gives; "
            "calibrate with arrays"
        )
    for pair in pairs:
        made = session.run(list(states.values()), {name: pair.read[name] for name in given})
        late = np.concatenate([np.full((1, 1), start, np.int64), pair.target[:, :-1]], 1)
        every = {IDS: late, ENCODER_MASK: pair.read[MASK]} | past | dict(zip(states, made, strict=True))
        yield {name: every[name] for name in names}


def encoder_files(folder: Path) -> dict[str, str]:
    """The encoder that `written` runs, its external data with it: name -> SHA-256."""
    return {name: digest(path) for name, path in sources.graph_files(folder / ENCODER).items()}


def _drawn(corpus: Corpus, options: Calibration) -> list[int]:
    """Rows that hold something to read and to write."""
    sides = zip(corpus.documents, corpus.targets, strict=True)
    full = [row for row, (text, target) in enumerate(sides) if text.strip() and target.strip()]
    if len(full) < options.samples:
        raise RequestError(
            f"calibration.source: {options.source} holds {len(full)} pairs of text and target; {options.samples} are "
            "asked for. Ask for fewer samples or bring more"
        )
    return sorted(random.Random(options.seed).sample(full, options.samples))


def _framed(documents: Sequence[str], vocabulary: Vocabulary, length: int) -> list[NDArray[np.int64]]:
    """Each document between the special tokens that the model was trained with, which count in its length."""
    before, after = vocabulary.frame()
    room = length - len(before) - len(after)
    return [np.array([[*before, *ids[:room], *after]], np.int64) for ids in vocabulary.encode(documents)]
