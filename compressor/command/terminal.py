"""What the program says: results on standard output, all else on standard error. The only file that prints."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from compressor.report import tables

if TYPE_CHECKING:
    from compressor.progress import Track

T = TypeVar("T")


def say(*lines: str) -> None:
    """Lines that are no result, on standard error, each behind the program's name."""
    for line in lines:
        print(f"compress: {line}", file=sys.stderr)


def show(*lines: str) -> None:
    for line in lines:
        print(line)


def emit(value: Any) -> None:
    """The one document of --json."""
    print(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def table(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rich's on a terminal; in a file or a log the same columns as plain text, as wide as they are."""
    if not sys.stdout.isatty():
        show(*([title] if title else []), *tables.plain(rows))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text  # a plain str would be read as markup, and [batch, sequence] would vanish

    drawn = Table(title=title, title_justify="left")
    for name in (names := tables.columns(rows)):
        first = next(row[name] for row in rows if name in row)
        drawn.add_column(name, justify="right" if isinstance(first, (int, float)) else "left")
    for row in rows:
        drawn.add_row(*(Text(tables.cell(row.get(name))) for name in names))
    Console().print(drawn)


def progress() -> Track:
    """On standard error: rich's where somebody watches, else a line a task with its time."""
    if not sys.stderr.isatty():
        return _timed
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description:<24}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())

    def track(iterable: Iterable[T], text: str) -> Iterable[T]:
        with Progress(*columns, console=Console(stderr=True)) as shown:
            yield from shown.track(iterable, description=text)

    return track


def _timed(iterable: Iterable[T], text: str) -> Iterable[T]:
    begin = time.perf_counter()
    yield from iterable
    say(f"{text}: {time.perf_counter() - begin:.1f} s")
