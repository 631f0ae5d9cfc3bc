"""What can go wrong, and the exit code that says so.

    CompressError
    |-- RequestError      2   the request is wrong: recipe, argument, model, data
    |   `-- RecipeError   2   every finding of one recipe, each with file:line
    |-- MachineError      3   this machine cannot do it: provider, library, memory, disk
    `-- LimitMissedError   1   the work is done, and a limit of the recipe was missed
    any other exception   70  our bug

A message is one line: where, what, what now.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

DONE, LIMIT_MISSED, REQUEST_WRONG, MACHINE_CANNOT, BUG = 0, 1, 2, 3, 70
OUT_OF_MEMORY = "out of memory; fewer samples, smaller batches or a machine with more would help"
LONGEST = 300  # characters of somebody else's message that a reader of ours still reads
COLOUR = re.compile(r"\x1b\[\d*m")


def in_a_line(error: BaseException) -> str:
    """What a library said, for a line of ours: why a file could not be read, without its name, which our line has."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(COLOUR.sub("", str(error)).split()) or type(error).__name__
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


class CompressError(Exception):
    """Ends a command; carries the exit code that tells a script why."""

    exit_code = BUG


class RequestError(CompressError):
    """What was asked for is wrong or cannot be found."""

    exit_code = REQUEST_WRONG


class RecipeError(RequestError):
    """A recipe was refused; `findings` are all of its faults, one line each."""

    def __init__(self, findings: Sequence[str]) -> None:
        super().__init__("\n".join(findings))
        self.findings = tuple(findings)


class MachineError(CompressError):
    """The request is right, and this machine lacks what it needs."""

    exit_code = MACHINE_CANNOT


class LimitMissedError(CompressError):
    """The artifact was made and measured, and it misses a limit or, under `--strict`, something fell back."""

    exit_code = LIMIT_MISSED
