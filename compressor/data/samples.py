"""Data becomes calls of a graph, whatever the graph is: text through its tokenizer, arrays by input name, pictures.

    text     a decoder: windows of tokens            an encoder: windows between its special tokens
             an encoder with a decoder behind it: pairs of what is read and what is written (`pairs.py`)
    .npz     an array for each input, rows along the first axis; `labels`, where there are some, are set apart
             or, with an axis more than the inputs have, whole calls along it: for inputs that share no rows
    folder   pictures, made into the one input by `images`; a folder for each class gives labels

Rows are chosen by seed and known by their hashes. What is empty, too little or mostly padding is refused, and nothing
is ever made up.
"""

from __future__ import annotations

import hashlib
import random
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from compressor import sources
from compressor.data import calibration, pairs, pictures
from compressor.data.vocabulary import Vocabulary
from compressor.errors import RequestError, in_a_line
from compressor.graph import encoder_decoder
from compressor.graph.decoder import IDS, MASK, Decoder, Feeds
from compressor.recipe.limits import Accuracy, Perplexity
from compressor.recipe.recipe import Calibration, Images, Recipe
from compressor.sources import TOKENIZER

ARRAYS, LABELS = ".npz", "labels"
SEGMENTS = "token_type_ids"
TOKENS_PER_BATCH = 512  # enough for full speed in the products; more only holds more activations
ROWS_PER_BATCH = 32
ROWS_OF_TEXT = 2  # a call of a comparison
Array = NDArray[np.generic]


@dataclass(frozen=True)
class Samples:
    """Calls of a graph: alike but for the last, which may hold fewer rows, or pairs, each of its own length.

    facts: where they came from.
    """

    batches: tuple[Feeds, ...] = field(repr=False)
    facts: dict[str, Any]
    labels: NDArray[np.int64] | None = field(default=None, repr=False)


def calibrating(options: Calibration, model: ir.Model, folder: Path, images: Images) -> Samples:
    """The data that statistics are gathered on; `folder` holds the model's tokenizer.

    Raises: RequestError when the source cannot be read, does not fit the graph, is too small or mostly padding.
    """
    if not _is_arrays(options.source):
        return _text(options, model, folder)
    arrays, labels, facts = _read(options.source, model, images)
    del labels
    available = len(next(iter(arrays.values())))
    if available < options.samples:
        raise RequestError(
            f"calibration.source: {options.source} holds {available} rows; {options.samples} are asked for. "
            "Ask for fewer samples or bring more data"
        )
    rows = _drawn(available, options)
    chosen = {name: array[rows] for name, array in arrays.items()}
    _refuse_padding(chosen, options)
    facts |= {"seed": options.seed, "rows": rows, "rows_sha256": _hashes(chosen)}
    return Samples(_calls(chosen, model, options.source), facts)


def labelled(options: Accuracy, model: ir.Model, images: Images) -> Samples:
    """Rows with their labels, from the beginning of the source. Raises: RequestError as `calibrating`."""
    if not _is_arrays(options.source):
        raise RequestError(f"accuracy.source: {options.source}: labels come in an {ARRAYS} file or a folder of classes")
    arrays, labels, facts = _read(options.source, model, images)
    if labels is None:
        raise RequestError(f"accuracy.source: {options.source}: holds no '{LABELS}'")
    if _whole_calls(arrays, model, options.source):
        raise RequestError(f"accuracy.source: {options.source}: labels are of rows, and its arrays hold whole calls")
    count = options.samples or len(labels)
    chosen = {name: array[:count] for name, array in arrays.items()}
    batches = _batches(chosen, model, options.source)
    used = sum(len(next(iter(batch.values()))) for batch in batches)
    return Samples(batches, facts | {"count": used}, labels[:used])


def heldout(recipe: Recipe, model: ir.Model, folder: Path | None) -> Samples | None:
    """Calls to compare two forms of a graph on: `agreement.source`, or else what the recipe has that fits the graph.

    arrays, pictures   of `calibration.source`, those first that were not drawn
    text               that perplexity is measured on, where the graph reads tokens and `folder` holds their tokenizer

    None where there is neither. Raises: RequestError as `calibrating`.
    """
    limits, named = recipe.validate_, recipe.validate_.agreement.source
    if named is None and _is_arrays(recipe.calibration.source):
        return _undrawn(recipe.calibration, model, recipe.images)
    if named is not None and _is_arrays(named):
        arrays, _, facts = _read(named, model, recipe.images)
        return Samples(_calls(arrays, model, named), facts)
    names = [str(value.name) for value in model.graph.inputs]
    reads_text = IDS in names and set(names) <= {IDS, MASK, SEGMENTS}
    if named is None and (folder is None or not reads_text):
        return None
    if folder is None:
        raise RequestError(f"agreement.source: {named}: neither artifact holds a {TOKENIZER} to read text with")
    measured = limits.perplexity or Perplexity()
    text, text_field = (named, limits.agreement.text_field) if named else (measured.source, measured.text_field)
    length = min(limits.agreement.length, sources.context(folder) or limits.agreement.length)
    ids = calibration.framed_windows(text, text_field, length, Vocabulary.of(folder))
    parts = [ids[at : at + ROWS_OF_TEXT] for at in range(0, len(ids), ROWS_OF_TEXT)]
    return Samples(tuple(_encoder_feeds(part, names) for part in parts), {"source": f"text of {Path(text).name}"})


def _undrawn(options: Calibration, model: ir.Model, images: Images) -> Samples:
    """Rows of the calibration's arrays, those that no statistic has seen before the others."""
    arrays, _, facts = _read(options.source, model, images)
    available = len(next(iter(arrays.values())))
    drawn = set(_drawn(available, options)) if options.samples <= available else set(range(available))
    rows = sorted(range(available), key=lambda row: row in drawn)
    return Samples(_calls({name: array[rows] for name, array in arrays.items()}, model, options.source), facts)


def unpadded(batches: tuple[Feeds, ...], model: ir.Model) -> tuple[list[Feeds], list[str]]:
    """Calls without a padded token, for statistics that see whole tensors: a row with padding becomes its own call.

    A graph that fixes its rows or their length takes them whole; what it falls back to is said in the second value.
    """
    shapes = [value.shape for value in model.graph.inputs if value.name == MASK]
    if not any(isinstance(size, int) for shape in shapes for size in shape or ()):
        return [call for batch in batches for call in _real_tokens(batch)], []
    padded = sum(int((batch[MASK] == 0).any(-1).sum()) for batch in batches)
    line = f"{padded} rows are padded, and the graph fixes their size: padding counts in the ranges of activations"
    return list(batches), [line] if padded else []


def _real_tokens(batch: Feeds) -> list[Feeds]:
    mask = batch.get(MASK)
    if mask is None or mask.all():
        return [batch]
    alike = {name for name, array in batch.items() if array.shape == mask.shape}
    return [
        {name: array[at : at + 1, mask[at].astype(bool)] if name in alike else array[at : at + 1]
         for name, array in batch.items()}
        for at in range(len(mask)) if mask[at].any()
    ]  # fmt: skip


def _drawn(available: int, options: Calibration) -> list[int]:
    return sorted(random.Random(options.seed).sample(range(available), options.samples))


def _is_arrays(source: str) -> bool:
    return Path(source).suffix == ARRAYS or Path(source).is_dir()


def _text(options: Calibration, model: ir.Model, folder: Path) -> Samples:
    """Windows of tokens for a decoder or an encoder."""
    decoder, names = Decoder.of(model), [str(value.name) for value in model.graph.inputs]
    if decoder is None and IDS not in names:
        raise RequestError(
            f"calibration.source: {options.source}: the graph reads no text; "
            f"name an {ARRAYS} file with an array for each of {', '.join(names)}, or a folder of pictures"
        )
    vocabulary, context = Vocabulary.of(folder), sources.context(folder)
    if encoder_decoder.is_encoder(model):
        found = pairs.calibration_pairs(options, vocabulary, context)
        return Samples(tuple({name: pair.read[name] for name in names} for pair in found.chosen), found.facts)
    if encoder_decoder.states(model):
        found = pairs.calibration_pairs(options, vocabulary, context)
        calls = tuple(pairs.written(found.chosen, model, folder))
        return Samples(calls, found.facts | {"encoder": pairs.encoder_files(folder)})
    windows = calibration.calibration_windows(options, vocabulary, context, framed=decoder is None)
    step = max(1, TOKENS_PER_BATCH // windows.ids.shape[1])
    parts = [windows.ids[at : at + step] for at in range(0, len(windows.ids), step)]
    if decoder is not None:
        return Samples(tuple(decoder.feeds(ids) for ids in parts), windows.facts)
    return Samples(tuple(_encoder_feeds(ids, names) for ids in parts), windows.facts)


def _encoder_feeds(ids: NDArray[np.int64], names: list[str]) -> Feeds:
    known: Feeds = {IDS: ids, MASK: np.ones_like(ids), SEGMENTS: np.zeros_like(ids)}
    if unknown := [name for name in names if name not in known]:
        raise RequestError(f"the graph reads {', '.join(unknown)}, which text does not give; calibrate with {ARRAYS}")
    return {name: known[name] for name in names}


def _read(
    source: str, model: ir.Model, images: Images
) -> tuple[dict[str, Array], NDArray[np.int64] | None, dict[str, Any]]:
    """Arrays by input name, labels, and where they came from."""
    inputs = {str(value.name): value for value in model.graph.inputs if not value.is_initializer()}
    if not inputs:
        raise RequestError(f"{source}: the graph has no inputs; all that it computes is constant")
    path = Path(source)
    found, sha256 = pictures.folder(path, inputs, images) if path.is_dir() else _npz(path)
    labels = found.pop(LABELS, None)
    if len(inputs) == 1 and len(found) == 1:  # one array for one input needs no name
        found = {next(iter(inputs)): next(iter(found.values()))}
    if missing := inputs.keys() - found.keys():
        raise RequestError(
            f"{source}: no array for input {', '.join(sorted(missing))}; it holds {', '.join(found) or 'none'}"
        )
    arrays = {name: _fitting(found[name], value, images, source) for name, value in inputs.items()}
    counts = {name: len(array) for name, array in arrays.items()}
    counts |= {LABELS: len(labels)} if labels is not None else {}
    if len(set(counts.values())) > 1 or not min(counts.values()):
        raise RequestError(f"{source}: rows are {counts}; every array needs the same number, and at least one")
    return arrays, None if labels is None else labels.astype(np.int64), {"source": path.name, "sha256": sha256}


def _npz(path: Path) -> tuple[dict[str, Array], str]:
    if path.is_file() and not zipfile.is_zipfile(path):
        raise RequestError(f"{path}: is no archive of arrays, as numpy.savez makes one")
    try:
        with np.load(path, allow_pickle=False) as held:
            arrays = {name: held[name] for name in held.files}
        return arrays, hashlib.sha256(path.read_bytes()).hexdigest()
    except (OSError, EOFError, ValueError, AttributeError) as error:
        raise RequestError(f"{path}: cannot be read as arrays: {in_a_line(error)}") from None


def _fitting(array: Array, value: ir.Value, images: Images, source: str) -> Array:
    """The array as the input takes it: pictures (uint8, height x width x channels) are made ready, others must fit."""
    wanted = value.dtype.numpy() if value.dtype else array.dtype
    if array.dtype == np.uint8 and wanted == np.float32 and array.ndim == 4:
        array = pictures.ready(array, value, images)
    shape = [size if isinstance(size, int) else None for size in value.shape or ()]
    sizes = shape[1:] if array.ndim == len(shape) else shape  # of a row, or of a whole call
    fits = len(sizes) == array.ndim - 1 and all(
        size in (None, given) for size, given in zip(sizes, array.shape[1:], strict=True)
    )
    if array.dtype != wanted or not fits:
        raise RequestError(
            f"{source}: '{value.name}' is {wanted}{shape}, and the array {array.dtype}{[*array.shape]}; "
            "rows lie along its first axis, or whole calls along one more"
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise RequestError(f"{source}: '{value.name}' holds values that are not finite")
    return array


def _refuse_padding(arrays: Mapping[str, Array], options: Calibration) -> None:
    mask = arrays.get(MASK)
    padding = 0.0 if mask is None else float((mask == 0).mean())
    if padding > options.max_padding:
        raise RequestError(
            f"calibration.source: {options.source} is {padding:.0%} padding; calibration.max_padding allows "
            f"{options.max_padding:.0%}. Bring fuller rows, or raise it"
        )


def _calls(arrays: Mapping[str, Array], model: ir.Model, source: str) -> tuple[Feeds, ...]:
    return _whole_calls(arrays, model, source) or _batches(arrays, model, source)


def _whole_calls(arrays: Mapping[str, Array], model: ir.Model, source: str) -> tuple[Feeds, ...]:
    """The calls, where the arrays have an axis more than the inputs; none where they hold rows."""
    ranks = {str(value.name): len(value.shape or ()) for value in model.graph.inputs}
    whole = [name for name, array in arrays.items() if array.ndim > ranks[name]]
    if whole and len(whole) < len(arrays):
        raise RequestError(f"{source}: {', '.join(whole)} hold whole calls, others rows; every array needs the same")
    count = len(next(iter(arrays.values()))) if whole else 0
    return tuple({name: array[at] for name, array in arrays.items()} for at in range(count))


def _batches(arrays: Mapping[str, Array], model: ir.Model, source: str) -> tuple[Feeds, ...]:
    """Calls of as many rows as the graph takes; where it fixes their number, what is left over is left out."""
    fixed = {size for value in model.graph.inputs if isinstance(size := (value.shape or [None])[0], int)}
    rows, count = min(fixed, default=ROWS_PER_BATCH), len(next(iter(arrays.values())))
    starts = range(0, count - rows + 1 if fixed else count, rows)
    if not starts:
        raise RequestError(f"{source}: {count} rows, and the graph takes {rows} at a time")
    return tuple({name: array[at : at + rows] for name, array in arrays.items()} for at in starts)


def _hashes(arrays: Mapping[str, Array]) -> list[str]:
    """The first 16 digits of each row's SHA-256, over its inputs in the order of their names."""
    count = len(next(iter(arrays.values())))
    rows = (b"".join(arrays[name][at].tobytes() for name in sorted(arrays)) for at in range(count))
    return [hashlib.sha256(row).hexdigest()[:16] for row in rows]
