"""Where stages put what they make: a folder is filled beside its place, then renamed into it, whole or not at all.

A stage's artifact lies under the stage's key. One whose key is already there is that stage's result, so a run that was
killed goes on from the last finished stage.
"""

from __future__ import annotations

import errno
import glob
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from compressor.artifact import MANIFEST, UNHASHED, Artifact, try_open, versions
from compressor.disk import flush, flushed, write_json
from compressor.errors import MachineError, RequestError, in_a_line

FULL_BELOW = 1 << 20  # bytes that are free, with what failed to be written still there


@dataclass
class Draft:
    """A directory being filled. `facts` go into the manifest, `measured` into the report."""

    folder: Path
    facts: dict[str, Any] = field(default_factory=dict)
    measured: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Shelf:
    """Where stages put their artifacts: `root/<stage>-<key>`, or `root` itself for a single command's `-o`."""

    root: Path
    exact: bool = False

    def place(self, stage: str, key: str) -> Path:
        return self.root if self.exact else self.root / f"{stage}-{key[:12]}"

    def find(self, stage: str, key: str) -> Artifact | None:
        """The artifact of this very key, whole; None when the stage has to run."""
        found = try_open(self.place(stage, key))
        return replace(found, reused=True) if found and found.key == key and _complete(found) else None

    @contextmanager
    def timed_draft(
        self, stage: str, key: str, options: Mapping[str, Any], source: Mapping[str, Any]
    ) -> Iterator[Draft]:
        """A draft that knows how long it took."""
        begin = time.perf_counter()
        with self.draft(stage, key, options, source) as draft:
            yield draft
            draft.measured["seconds"] = time.perf_counter() - begin

    @contextmanager
    def draft(self, stage: str, key: str, options: Mapping[str, Any], source: Mapping[str, Any]) -> Iterator[Draft]:
        """Fill the draft's folder inside the block; leaving it commits, an exception leaves nothing behind."""
        place = self.place(stage, key).absolute()
        claim(place)
        folder = place.with_name(f".{place.name}.partial-{os.getpid()}")
        missing = [parent for parent in folder.parents if not parent.exists()]
        try:
            folder.mkdir(parents=True)
            draft = Draft(folder)
            yield draft
            files = flushed(path for path in folder.rglob("*") if path.is_file())
            _write_manifest(draft, stage, key, options, source, files)
            _rename_into(folder, place)
        except OSError as error:
            if _has_no_room(error, place):
                raise MachineError(f"{place}: the disk is full; free some space or choose another -o") from None
            if not folder.is_dir():
                raise RequestError(f"{place}: cannot be made ({in_a_line(error)}); choose another -o") from None
            raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            for parent in missing:
                with suppress(OSError):  # it holds something by now
                    parent.rmdir()


def _has_no_room(error: OSError, place: Path) -> bool:
    """numpy's writes end short on a full disk and bring no error number."""
    return error.errno == errno.ENOSPC or (error.errno is None and _free_bytes(place) < FULL_BELOW)


def claim(place: Path) -> None:
    """Sweep what killed runs left at a place, and make sure that it may be written. Raises: as `refuse_strangers`."""
    for trace in place.parent.glob(f".{glob.escape(place.name)}.*-*"):
        kind, _, pid = trace.name.removeprefix(f".{place.name}.").rpartition("-")
        if not pid.isdigit() or _alive(int(pid)):
            continue
        if kind == "replaced" and not place.exists():
            trace.rename(place)
        elif kind in ("partial", "replaced"):
            shutil.rmtree(trace, ignore_errors=True)
    refuse_strangers(place)


def refuse_strangers(place: Path) -> None:
    """Raises: RequestError when files that are not an artifact's lie there; they are never replaced."""
    if not place.exists():
        return
    if not place.is_dir():
        raise RequestError(f"{place}: is a file; choose another output directory")
    held = try_open(place)
    known = {MANIFEST, *UNHASHED, *held.manifest["files"]} if held else set()
    strangers = [path for path in place.rglob("*") if path.is_file() and str(path.relative_to(place)) not in known]
    if strangers:
        raise RequestError(f"{place}: holds {strangers[0].name}, which is not ours; choose another output directory")


def refuse_full_disk(place: Path, nbytes: int) -> None:
    """Raises: MachineError when what will be written has no room, before any of it is."""
    free = _free_bytes(place)
    if nbytes > free:
        raise MachineError(
            f"{place}: about {nbytes / 1e9:.1f} GB will be written and {free / 1e9:.1f} GB are free; "
            "free some space or choose another -o"
        )


def _free_bytes(place: Path) -> int:
    """Of the disk on which a place will lie, whose folders need not be there yet."""
    standing = next(folder for folder in place.absolute().parents if folder.is_dir())
    return shutil.disk_usage(standing).free


def _write_manifest(
    draft: Draft,
    stage: str,
    key: str,
    options: Mapping[str, Any],
    source: Mapping[str, Any],
    files: Mapping[Path, str],
) -> None:
    entries = {str(path.relative_to(draft.folder)): path for path in files}
    manifest = {
        "format": 1,
        "stage": stage,
        "key": key,
        "input": dict(source),
        "options": dict(options),
        "facts": draft.facts,
        "versions": versions(),
        "files": {
            name: {"sha256": files[path], "bytes": path.stat().st_size}
            for name, path in entries.items()
            if name not in UNHASHED
        },
    }
    if draft.measured:
        write_json(draft.folder / UNHASHED[0], draft.measured)
    write_json(draft.folder / MANIFEST, manifest)


def _rename_into(folder: Path, place: Path) -> None:
    """Put a finished folder at its place; an artifact already there steps aside first and goes last."""
    for name in (MANIFEST, *UNHASHED):
        if (folder / name).is_file():
            flush(folder / name)
    if not place.exists():
        folder.rename(place)
        return
    aside = place.with_name(f".{place.name}.replaced-{os.getpid()}")
    place.rename(aside)
    folder.rename(place)
    shutil.rmtree(aside, ignore_errors=True)


def _complete(artifact: Artifact) -> bool:
    """Every file is there with its size; `damaged` reads the bytes too."""
    return all(
        (path := artifact.directory / name).is_file() and path.stat().st_size == entry["bytes"]
        for name, entry in artifact.manifest["files"].items()
    )


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return pid != os.getpid()
