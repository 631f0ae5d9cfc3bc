"""Inputs made up for a graph, so that two forms of it can be compared: tried before they are believed.

a decoder    its own calls: prefill of padded rows, a step on a filled cache
any other    standard normal and 0 or 1; at the first sizes of a list at which the graph runs, then at others, so that
             what was folded for one is seen at the other; there a default of floats is passed too, and is not the one
             in the file
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from compressor.graph.decoder import Decoder, Feeds
from compressor.graph.session import open_session

if TYPE_CHECKING:
    import onnxruntime as ort

# Sizes of a free axis that is the first of its shape, and of others; the first pair at which the graph runs. 2 shows a
# broadcast that 1 hides; 64 is what a network that halves its image five times wants, 576 what audio models with a
# window of 512 and its context want, and 288 those of 256: two rows of them before as many rows, which is a thousand
# times the work.
FREE_AXES = ((2, 2), (1, 1), (16, 16), (2, 64), (2, 288), (2, 576), (576, 576))
# For the second call.
OTHER_AXES = ((3, 5), (5, 3), (3, 3), (1, 1), (4, 4), (1, 2), (2, 1), (3, 96), (3, 288), (3, 576))
PADDING = "mask"  # in the names of inputs that say what is padding
MOST_ENTRIES = 1 << 22  # of an input with free axes: five axes of 576 are more memory than anybody has
MOST_FIXED_ENTRIES = 1 << 25  # of one that has its size: 128 MB of float32

Outputs = dict[str, NDArray[np.generic]]
Answer = dict[str, Any]  # as ONNX Runtime gives it: arrays, lists of them, dictionaries, None


@dataclass(frozen=True)
class Probe:
    """Calls that a graph is known to answer: `probe(model)` runs them with ONNX Runtime's optimizer off."""

    calls: tuple[Feeds, ...] = field(repr=False)
    decoder: Decoder | None = None
    known: tuple[ir.Model, Outputs] | None = field(default=None, repr=False)  # answers that were seen already
    one_size: bool = False  # of a graph with free axes that runs at no second size of ours
    threads: int = 0  # that compute; 0: one for each core
    in_bfloat16: bool = False  # for which the CPU has no kernels: computed in float32, and rounded after every node

    def shaken(self, seed: int) -> Probe:
        """The same calls with floats that are rounded another way, up or down by half a digit."""
        rng = np.random.default_rng(seed)
        return dataclasses.replace(self, calls=tuple(_shake(feeds, rng) for feeds in self.calls), known=None)

    def where_rows_see(self) -> Probe:
        """The same calls, in whose masks of integers and booleans every row sees its first entry.

        The answer of a row that sees nothing depends on the type: in float32 every score is hidden equally deep and it
        is the mean of all, and float16, whose range is smaller, lets differences of the scores through.
        """
        calls = tuple({name: _seen(name, value) for name, value in feeds.items()} for feeds in self.calls)
        return dataclasses.replace(self, calls=calls, known=None)

    def __call__(self, model: ir.Model) -> Outputs:
        """Outputs by name and call; of a decoder, what it promises."""
        if self.known and self.known[0] is model:
            return self.known[1]
        runs = _as_float32(model) if self.in_bfloat16 else model
        session = open_session(runs, "exact", lean=True, spinning=False, threads=self.threads)
        found: Outputs = {}
        for at, feeds in enumerate(self.calls):
            for name, value in _answer(session, feeds).items():
                kept = self.decoder.promised(name, value, feeds) if self.decoder else value
                found |= arrays(f"{name} of call {at}", kept)
        return found


def find(model: ir.Model, seed: int = 0, *, threads: int = 0) -> Probe | None:
    """Inputs at which a graph runs; None when none of those we make up does."""
    in_bfloat16 = is_bfloat16(model)
    runs = _as_float32(model) if in_bfloat16 else model
    if decoder := Decoder.of(runs):
        return Probe(tuple(decoder.probes(seed)), decoder, threads=threads, in_bfloat16=in_bfloat16)
    # A graph that does not load at all is the caller's error, and said as such.
    session = open_session(runs, "exact", lean=True, spinning=False, threads=threads)
    first = _first_to_run(session, _candidates(runs, FREE_AXES, seed))
    if first is None:
        return None
    found = [first]
    others = (one | _other_defaults(runs) for one in _candidates(runs, OTHER_AXES, seed + 1))
    free = _has_choices(runs)
    if free and (second := _first_to_run(session, (one for one in others if _differs(one, first[0])))):
        found.append(second)
    answers: Outputs = {}
    for at, (_, call) in enumerate(found):
        for name, value in call.items():
            answers |= arrays(f"{name} of call {at}", value)
    return Probe(
        tuple(feeds for feeds, _ in found),
        known=(model, answers),
        one_size=free and len(found) == 1,
        threads=threads,
        in_bfloat16=in_bfloat16,
    )


def is_bfloat16(model: ir.Model) -> bool:
    """Whether it computes in bfloat16, for which ONNX Runtime's CPU has next to no kernels."""
    return any(one.dtype == ir.DataType.BFLOAT16 for one in (*model.graph.inputs, *model.graph.initializers.values()))


def _as_float32(model: ir.Model) -> ir.Model:
    from compressor.graph import narrow

    model.graph.sort()  # cloning needs it
    return narrow.runnable(model.clone(), ir.DataType.BFLOAT16)


def _shake(feeds: Feeds, rng: np.random.Generator) -> Feeds:
    def other(array: NDArray[Any]) -> NDArray[Any]:
        if array.dtype.kind != "f":
            return array
        digit = float(np.finfo(array.dtype).eps) / 2
        return np.asarray(array * (1 + rng.choice([-digit, digit], array.shape)), array.dtype)

    return {name: other(array) for name, array in feeds.items()}


def _seen(name: str, value: NDArray[np.generic]) -> NDArray[np.generic]:
    if PADDING not in name or value.dtype.kind not in "biu" or value.ndim < 2 or not value.size:
        return value
    shown = value.copy()
    shown[..., 0] = 1
    return shown


def arrays(name: str, value: Any) -> Iterator[tuple[str, NDArray[np.generic]]]:
    """What an output holds: one array, those of a sequence, keys and values of a map, or nothing."""
    if isinstance(value, list):
        for place, item in enumerate(value):
            yield from arrays(f"{name}, item {place}", item)
    elif isinstance(value, Mapping):
        yield from ((f"{name}, keys", np.array(list(value))), (f"{name}, values", np.array(list(value.values()))))
    elif value is not None:
        yield name, np.asarray(value)


def _first_to_run(session: ort.InferenceSession, candidates: Iterable[Feeds]) -> tuple[Feeds, Answer] | None:
    try:
        for feeds in candidates:
            with suppress(Exception):  # ONNX Runtime's own share no base class: these inputs are not it
                return feeds, _answer(session, feeds)
    except (TypeError, AttributeError, NotImplementedError):  # a type that numpy has no array for
        return None
    return None


def _answer(session: ort.InferenceSession, feeds: Feeds) -> Answer:
    names = [one.name for one in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def _has_choices(model: ir.Model) -> bool:
    """A free axis, or a default that a caller may override."""
    return bool(_other_defaults(model)) or any(map(_is_free, model.graph.inputs))


def _is_free(value: ir.Value) -> bool:
    return not all(map(_is_number, value.shape or ()))


def _other_defaults(model: ir.Model) -> Feeds:
    """Each default of floats, half as large again; before IR version 4 a weight among the inputs is no default."""
    weights = {name: one.const_value for name, one in model.graph.initializers.items() if one.is_graph_input()}
    floats = {name: one.numpy() for name, one in weights.items() if one is not None and one.dtype.is_floating_point()}
    return {name: (one * 1.5).astype(one.dtype) for name, one in floats.items()} if model.ir_version >= 4 else {}


def _differs(feeds: Feeds, first: Feeds) -> bool:
    return feeds.keys() != first.keys() or any(feeds[name].shape != first[name].shape for name in first)


def _candidates(model: ir.Model, axes: Iterable[tuple[int, int]], seed: int) -> Iterator[Feeds]:
    for sizes in axes:
        free = list(_shapes([value for value in model.graph.inputs if _is_free(value)], sizes))
        fixed = _shapes([value for value in model.graph.inputs if not _is_free(value)], sizes)
        most_free, most_fixed = (max(map(math.prod, shapes), default=0) for shapes in (free, fixed))
        if most_free <= MOST_ENTRIES and most_fixed <= MOST_FIXED_ENTRIES:
            yield made_up(model, sizes, seed)


def made_up(model: ir.Model, sizes: tuple[int, int], seed: int) -> Feeds:
    """Values for every input that needs one; `sizes`: of a free axis that is the first of its shape, and of others.

    Axes of one name have one size, that of the first place where the name stands. Where an input has a free first axis,
    the one free axis of another is its batch too, as in the states of a recurrent layer.
    """
    rng = random.Random(seed)  # numpy's own takes a tenth of a small graph's time to load
    given = [value for value in model.graph.inputs if value.name not in model.graph.initializers]
    pairs = zip(given, _shapes(given, sizes), strict=True)
    return {str(value.name): np.asarray(_fill(value, shape, rng)) for value, shape in pairs}


def _shapes(values: list[ir.Value], sizes: tuple[int, int]) -> Iterator[list[int]]:
    free = [[place for place, size in enumerate(one.shape or ()) if not _is_number(size)] for one in values]
    batched = any(places[:1] == [0] for places in free)
    named: dict[str, int] = {}
    for value, places in zip(values, free, strict=True):
        first = 0 if len(places) != 1 or not batched else places[0]
        yield [_size(size, sizes[place != first], named) for place, size in enumerate(value.shape or ())]


def _is_number(size: int | ir.SymbolicDim) -> bool:
    return isinstance(size, int) and size >= 0


def _size(size: int | ir.SymbolicDim, free: int, named: dict[str, int]) -> int:
    if isinstance(size, int):
        return size if size >= 0 else free
    return named.setdefault(str(size.value), free) if size.value else free


def _fill(value: ir.Value, shape: list[int], rng: random.Random) -> NDArray[np.generic]:
    dtype = value.dtype.numpy() if value.dtype else np.dtype(np.float32)
    if value.dtype == ir.DataType.STRING:
        return np.array(["", "a"], object)[_bits(shape, rng)]
    if np.issubdtype(dtype, np.floating):
        return _normal(shape, rng).astype(dtype)
    return _bits(shape, rng).astype(dtype)


def _bits(shape: list[int], rng: random.Random) -> NDArray[np.uint8]:
    return np.frombuffer(rng.randbytes(math.prod(shape)), np.uint8).reshape(shape) % np.uint8(2)


def _normal(shape: list[int], rng: random.Random) -> NDArray[np.float64]:
    """Box and Muller: two numbers between 0 and 1, neither of them 0, make two standard normal ones."""
    count = math.prod(shape)
    words = np.frombuffer(rng.randbytes(8 * (count // 2 + 1)), np.uint32).reshape(2, -1)
    radius, angle = (words + 0.5) / 2**32
    radius, angle = np.sqrt(-2 * np.log(radius)), 2 * np.pi * angle
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count].reshape(shape)
