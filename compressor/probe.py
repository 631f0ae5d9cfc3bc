"""Inputs made up for a graph, so that two forms of it can be compared: tried before they are believed.

a decoder    its own calls: prefill of padded rows, a step on a filled cache
any other    standard normal and 0 or 1, with every free axis of one size, the first at which the graph runs
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from compressor.decoder import Decoder, Feeds
from compressor.session import open_session

# 2 shows a broadcast that 1 hides; 576 is what audio models with a window of 512 and its context want.
FREE_AXES = (2, 1, 16, 576)


@dataclass(frozen=True)
class Probe:
    """Calls that a graph is known to answer: `probe(model)` runs them with ONNX Runtime's optimizer off."""

    calls: tuple[Feeds, ...] = field(repr=False)
    decoder: Decoder | None = None

    def __call__(self, model: ir.Model) -> dict[str, NDArray[np.generic]]:
        """Outputs by name and call; of a decoder, what it promises."""
        session = open_session(model, "exact")
        names = [one.name for one in session.get_outputs()]
        found = {}
        for at, feeds in enumerate(self.calls):
            for name, value in zip(names, session.run(names, feeds), strict=True):
                kept = self.decoder.promised(name, value, feeds) if self.decoder else value
                found[f"{name} of call {at}"] = kept
        return found


def find(model: ir.Model, seed: int = 0) -> Probe | None:
    """Inputs at which a graph runs; None when none of those we make up does."""
    if decoder := Decoder.of(model):
        return Probe(tuple(decoder.probes(seed)), decoder)
    open_session(model, "exact")  # a graph that does not load at all is the caller's error, and said as such
    for size in FREE_AXES:
        try:
            probe = Probe((made_up(model, (size, size), seed),))
            probe(model)
        except Exception:  # ONNX Runtime's own, or a type that numpy has no array for: these inputs are not it
            continue
        return probe
    return None


def made_up(model: ir.Model, sizes: tuple[int, int], seed: int) -> Feeds:
    """Values for every input that needs one; `sizes`: of a free axis that is the first of its shape, and of others."""
    rng = np.random.default_rng(seed)
    given = [value for value in model.graph.inputs if value.name not in model.graph.initializers]
    return {str(value.name): _fill(value, sizes, rng) for value in given}


def _fill(value: ir.Value, sizes: tuple[int, int], rng: np.random.Generator) -> NDArray[np.generic]:
    stated = enumerate(value.shape or ())
    shape = [size if isinstance(size, int) and size >= 0 else sizes[bool(place)] for place, size in stated]
    dtype = value.dtype.numpy() if value.dtype else np.dtype(np.float32)
    if np.issubdtype(dtype, np.floating):
        return rng.standard_normal(shape).astype(dtype)
    return rng.integers(0, 2, shape).astype(dtype)
