"""Layers: what the solver did to each weight, and which of them need a look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from compressor.recipe.limits import Layers
from compressor.report.report import Measurement


def measure(rows: Sequence[Mapping[str, Any]], options: Layers) -> list[Measurement]:
    """How many layers carry a flag; none when nothing was quantized here."""
    flagged = [f"{row['layer']} {flag}" for row in rows for flag in row["flags"]]
    if not rows:
        return []
    return [Measurement("flagged layers", len(flagged), limit=options.max_flagged, note="; ".join(flagged[:5]))]
