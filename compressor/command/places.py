"""Where the results of a command's inputs go: one into the output, several each into a folder of its own there."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

from compressor.command import ending
from compressor.command.arguments import INTERRUPTED
from compressor.errors import DONE, RequestError

DONE_BEFORE = "the same command finds what is done already"


def each(inputs: Sequence[Path], output: Path, work: Callable[[Path, Path], None]) -> int:
    """Work on one input; on several each by itself, into a folder of its name. Returns: the gravest of their codes."""
    if len(inputs) == 1:
        work(inputs[0], output)
        return DONE
    places: dict[Path, Path] = {}
    for path in inputs:
        place = output / (path.stem if path.suffix == ".onnx" else path.resolve().name)
        if place in places:
            raise RequestError(f"{path}: goes to {place}, as {places[place]} does; run it with an output of its own")
        places[place] = path
    codes = []
    for place, path in places.items():
        codes.append(ending.guarded(functools.partial(work, path, place), kept=DONE_BEFORE))
        if codes[-1] == INTERRUPTED:
            break
    return max(codes)


def refuse_itself(input_: Path, output: Path) -> None:
    """Raises: RequestError where what is made would take the place of what it is made from."""
    if input_.resolve().is_relative_to(output.resolve()):
        raise RequestError(f"{output}: holds the input itself, and would be replaced; choose another -o")
