"""An artifact is a directory that is written once: filled beside its place, then renamed into it.

    <place>/            model.onnx, model.onnx.data, tokenizer.json, ...
    <place>/manifest.json   stage, key, input, options, versions, SHA-256 of every file: equal for equal inputs
    <place>/report.json     what may differ from run to run: seconds and measurements (never hashed)

A stage's key hashes its input's key, its own options and the versions that wrote it. An artifact whose key is already
at its place is that stage's result, so a run that was killed goes on from the last finished stage.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import glob
import hashlib
import json
import mmap
import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from compressor import __version__, installed
from compressor.errors import MachineError, RequestError

MANIFEST = "manifest.json"
MODEL = "model.onnx"
WINDOW = 1 << 26  # bytes of a file that are mapped at a time
FILES_AT_ONCE = 4  # hashed and flushed: two cores hash while two files are on their way to the disk
SYNC_FILE_RANGE_WRITE = 2  # of Linux: begin, and do not wait
UNHASHED = ("report.json", "report.md", "report.html")  # hold times and time stamps
LIBRARIES = ("numpy", "onnx", "onnx-ir", "onnxscript", "onnxruntime-gpu", "onnxruntime", "torch", "transformers")


@dataclass(frozen=True)
class Artifact:
    """A finished stage: where it lies, what made it, and the facts it learned."""

    directory: Path
    stage: str
    key: str
    manifest: Mapping[str, Any] = field(repr=False)
    model_name: str = MODEL
    reused: bool = False  # found, not made, by the command that holds it
    part: str = ""  # of several graphs the one that this is a view of: "encoder_model"

    @property
    def models(self) -> list[Path]:
        """Its graphs: one, or the few that a task needs, such as an encoder and a decoder."""
        names = [self.model_name] if self.part else self.facts.get("models", [self.model_name])
        return [self.directory / name for name in names]

    @property
    def views(self) -> list[Artifact]:
        """The artifact once for each of its graphs, as if it had that one alone; itself where it has one."""
        if len(self.models) == 1:
            return [self]
        return [replace(self, model_name=path.name, part=path.stem) for path in self.models]

    @property
    def carries_as(self) -> str:
        """What the graph of a view is called in the artifact that is made from it."""
        return self.model_name if self.part else MODEL

    @property
    def model(self) -> Path:
        """Its one graph. Raises: RequestError when it has several, for what works on one."""
        if len(self.models) > 1:
            names = " or ".join(path.name for path in self.models)
            raise RequestError(f"{self.directory}: holds several graphs and this works on one; name {names} in it")
        return self.models[0]

    @property
    def facts(self) -> Mapping[str, Any]:
        facts: Mapping[str, Any] = self.manifest["facts"]
        return facts

    @property
    def nbytes(self) -> int:
        """Bytes of all hashed files."""
        return sum(entry["bytes"] for entry in self.manifest["files"].values())

    def measured(self) -> dict[str, Any]:
        """What the stage wrote of times and outcomes."""
        report = self.directory / UNHASHED[0]
        return dict(json.loads(report.read_text(encoding="utf-8"))) if report.is_file() else {}

    def damaged(self) -> list[str]:
        """Names of files that are not what the manifest says; reads every byte."""
        files = self.manifest["files"].items()
        return [name for name, entry in files if _digest_or_none(self.directory / name) != entry["sha256"]]


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
            files = _flushed(path for path in folder.rglob("*") if path.is_file())
            _write_manifest(draft, stage, key, options, source, files)
            _rename_into(folder, place)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise MachineError(f"{place}: the disk is full; free some space or choose another -o") from None
            if not folder.is_dir():
                raise RequestError(f"{place}: cannot be made ({error.strerror}); choose another -o") from None
            raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            for parent in missing:
                with suppress(OSError):  # it holds something by now
                    parent.rmdir()


def open_artifact(directory: Path) -> Artifact:
    """Open a finished artifact. Raises: RequestError when the directory is none."""
    found = try_open(directory)
    if found is None:
        raise RequestError(f"{directory}: no artifact ({MANIFEST} is missing or not ours)")
    return found


def try_open(directory: Path) -> Artifact | None:
    """The artifact at a directory, or None."""
    try:
        manifest = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
        return Artifact(directory, manifest["stage"], manifest["key"], manifest)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def claim(place: Path) -> None:
    """Make sure that a place may be written, and sweep what killed runs left there.

    Raises: RequestError when files that are not an artifact's lie there; they are never replaced.
    """
    for trace in place.parent.glob(f".{glob.escape(place.name)}.*-*"):
        kind, _, pid = trace.name.removeprefix(f".{place.name}.").rpartition("-")
        if not pid.isdigit() or _alive(int(pid)):
            continue
        if kind == "replaced" and not place.exists():
            trace.rename(place)
        elif kind in ("partial", "replaced"):
            shutil.rmtree(trace, ignore_errors=True)
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
    standing = next(folder for folder in place.absolute().parents if folder.is_dir())
    free = shutil.disk_usage(standing).free
    if nbytes > free:
        raise MachineError(
            f"{place}: about {nbytes / 1e9:.1f} GB will be written and {free / 1e9:.1f} GB are free; "
            "free some space or choose another -o"
        )


def key(stage: str, *parts: Any) -> str:
    """SHA-256 over a stage's name, its inputs and options, and the versions that compute it."""
    text = json.dumps([stage, *parts, versions()], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


@functools.cache
def versions() -> dict[str, str]:
    """Versions of this package and of the libraries that shape its artifacts."""
    found = {name: installed.version(name) for name in LIBRARIES}
    return {"compress": __version__} | {name: version for name, version in found.items() if version}


def digest(path: Path) -> str:
    """SHA-256 of a file, a window at a time: mapped, for that spares a copy, and seldom asking for Python's lock."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        for start in range(0, size, WINDOW):
            with mmap.mmap(file.fileno(), min(WINDOW, size - start), access=mmap.ACCESS_READ, offset=start) as window:
                found.update(window)
    return found.hexdigest()


def begin_flush(path: Path) -> None:
    """Let the disk begin with a finished file and wait for nothing: what follows computes while it is written.

    Without this Linux begins when the artifact is flushed, and all has to wait. Elsewhere it is not known how.
    """
    if sys.platform == "linux":
        with path.open("rb") as file:
            whole = ctypes.c_int64(0)
            ctypes.CDLL(None).sync_file_range(file.fileno(), whole, whole, SYNC_FILE_RANGE_WRITE)


def write_json(path: Path, value: Any) -> None:
    """JSON with sorted keys and a final newline: equal values are equal bytes."""
    path.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def _flushed(paths: Iterable[Path]) -> dict[Path, str]:
    """SHA-256 of each file, sorted; all of them on the disk, where some go while others are hashed."""
    ordered = sorted(paths)
    with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        work = [(pool.submit(digest, path), pool.submit(_flush, path)) for path in ordered]
        for _, flushed in work:
            flushed.result()
        return {path: hashed.result() for path, (hashed, _) in zip(ordered, work, strict=True)}


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


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
            _flush(folder / name)
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


def _digest_or_none(path: Path) -> str | None:
    return digest(path) if path.is_file() else None


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return pid != os.getpid()
