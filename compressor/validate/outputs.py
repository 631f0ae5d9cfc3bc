"""Outputs: what a graph that is no decoder says, candidate against reference, on the same calls.

output difference   largest |difference| of any value
output cosine       of each row of each floating output, the least
output top-1        share of rows [..., scores] whose largest score is at the same place, where an output has rows
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from compressor.graph import probe
from compressor.graph.decoder import Feeds
from compressor.recipe.limits import Agreement
from compressor.report.report import Measurement
from compressor.validate.subject import Subject

CALLS = 8  # of a data set: enough to see a fault, few enough for the unoptimized reference
Array = NDArray[np.generic]


def measure(
    candidate: Subject, reference: Subject, calls: Sequence[Feeds], options: Agreement, source: str = ""
) -> list[Measurement]:
    """The worst of all outputs and calls; anything not finite, on either side, is infinitely far.

    source: where the calls come from, for the notes.
    """
    if not calls:
        note = "the reference runs on no input we can make up"
        return [Measurement("outputs compared", 0, limit=1, sense="at least", note=note)]
    pairs = list(_pairs(candidate, reference, calls))
    alike = [_same_place(ours, theirs) for _, ours, theirs in pairs if _is_scores(theirs)]
    differences = {name: _difference(ours, theirs) for name, ours, theirs in pairs}
    furthest = max(differences, key=lambda name: differences[name])
    cosines = {name: _cosine(ours, theirs) for name, ours, theirs in pairs if theirs.dtype.kind == "f"}
    came = f", {source}" if source else ""
    found = [
        Measurement("output difference", differences[furthest], limit=options.max_difference, note=f"{furthest}{came}")
    ]
    if cosines:
        least = min(cosines, key=lambda name: cosines[name])
        found.append(
            Measurement(
                "output cosine", cosines[least], limit=options.min_cosine, sense="at least", note=f"{least}{came}"
            )
        )
    if alike:
        top1 = float(np.concatenate(alike).mean())
        found.append(Measurement("output top-1", top1, limit=options.min_top1, sense="at least"))
    return found


def _pairs(candidate: Subject, reference: Subject, calls: Sequence[Feeds]) -> Iterator[tuple[str, Array, Array]]:
    names = [one.name for one in reference.session.get_outputs()]
    for at, feeds in enumerate(calls):
        answers = (side.session.run(names, dict(feeds)) for side in (candidate, reference))
        for name, *pair in zip(names, *answers, strict=True):
            ours, theirs = (dict(probe.arrays(f"{name} of call {at}", one)) for one in pair)
            if ours.keys() == theirs.keys():
                yield from ((item, ours[item], theirs[item]) for item in theirs)
            else:  # a sequence or a map of another length, and something in the place of nothing
                yield f"{name} of call {at}, items", np.array(len(ours)), np.array(len(theirs))


def _difference(ours: Array, theirs: Array) -> float:
    if ours.shape != theirs.shape or ours.dtype.kind != theirs.dtype.kind:
        return math.inf
    if theirs.dtype.kind in "OSU":  # text
        return 0.0 if np.array_equal(ours, theirs) else math.inf
    difference = np.abs(ours.astype(np.float64) - theirs.astype(np.float64)).max(initial=0.0)
    return float(difference) if np.isfinite(difference) else math.inf


def _cosine(ours: Array, theirs: Array) -> float:
    """The least over rows; two rows of zeros point the same way, and NaN nowhere."""
    if ours.shape != theirs.shape:
        return -1.0
    width = theirs.shape[-1] if theirs.ndim else 1
    a, b = (one.astype(np.float64).reshape(-1, max(width, 1)) for one in (ours, theirs))
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    same = (a == b).all(1)
    cosine = np.where(same, 1.0, (a * b).sum(1) / np.where(lengths > 0, lengths, np.inf))
    return float(np.nan_to_num(cosine, nan=-1.0).min(initial=1.0))


def _is_scores(array: Array) -> bool:
    return array.dtype.kind == "f" and array.ndim == 2 and array.shape[-1] > 1


def _same_place(ours: Array, theirs: Array) -> NDArray[np.bool_]:
    if ours.shape != theirs.shape:
        return np.zeros(len(theirs), np.bool_)
    finite = np.isfinite(ours).all(-1) & np.isfinite(theirs).all(-1)
    same: NDArray[np.bool_] = (ours.argmax(-1) == theirs.argmax(-1)) & finite
    return same
