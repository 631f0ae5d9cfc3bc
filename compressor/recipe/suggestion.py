"""The name that was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

ALIKE = 0.5  # share of the letters that two names have in common, in order


def suggestion(name: str, known: Sequence[str], otherwise: str | None = None) -> str:
    """'Did you mean ...?' where one of the known names is near; else `otherwise`, or all of them."""
    if near := difflib.get_close_matches(name, known, n=1, cutoff=ALIKE):
        return f"Did you mean '{near[0]}'?"
    return f"Known: {', '.join(known)}" if otherwise is None else otherwise
