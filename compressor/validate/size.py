"""Size: bytes on disk of the graph and its weights."""

from __future__ import annotations

from compressor.recipe.limits import Size
from compressor.report.report import Measurement
from compressor.validate.subject import Subject


def measure(candidate: Subject, reference: Subject, options: Size) -> list[Measurement]:
    """Bytes, and the ratio to the reference."""
    ours, theirs = candidate.nbytes, reference.nbytes
    return [
        Measurement("size", ours, "bytes", reference=theirs),
        Measurement("size ratio", ours / theirs, limit=options.max_ratio),
    ]
