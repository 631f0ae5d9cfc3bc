"""An artifact is written once, whole or not at all; what is not ours is never touched."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from compressor import artifact
from compressor.artifact import Artifact
from compressor.errors import MachineError, RequestError
from compressor.shelf import Draft, Shelf, claim

KEY = artifact.key("export", "input", {"opset": 21})


def write(shelf: Shelf, key: str = KEY, content: bytes = b"graph") -> Artifact:
    with shelf.draft("export", key, {"opset": 21}, {"model": "x"}) as draft:
        fill(draft, content)
    return artifact.open_artifact(shelf.place("export", key))


def fill(draft: Draft, content: bytes = b"graph") -> None:
    (draft.folder / "model.onnx").write_bytes(content)
    (draft.folder / "parts").mkdir()
    (draft.folder / "parts" / "a.bin").write_bytes(b"a" * 300)
    draft.facts["nodes"] = 3
    draft.measured["seconds"] = 1.5


def abandon(shelf: Shelf, key: str) -> None:
    """Fail with a draft half done."""
    with shelf.draft("export", key, {}, {}) as draft:
        fill(draft, b"half a gra")
        raise ZeroDivisionError


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "stages")


@pytest.fixture
def exact(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "out", exact=True)


@pytest.fixture
def dead() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.fixture
def alive() -> Iterator[int]:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process.pid
    process.communicate()


# --- written once ----------------------------------------------------------------------------------------------------


def test_a_draft_becomes_an_artifact(shelf: Shelf) -> None:
    made = write(shelf)
    assert made.directory == shelf.root / f"export-{KEY[:12]}"
    assert tree(made.directory).keys() == {"model.onnx", "parts/a.bin", "manifest.json", "report.json"}
    assert (made.stage, made.key, made.facts, made.measured()) == ("export", KEY, {"nodes": 3}, {"seconds": 1.5})
    assert made.nbytes == len(b"graph") + 300


def test_an_exception_leaves_nothing_behind(shelf: Shelf) -> None:
    with pytest.raises(ZeroDivisionError):
        abandon(shelf, KEY)
    assert not shelf.root.exists()
    write(shelf)
    with pytest.raises(ZeroDivisionError):
        abandon(shelf, "other")
    assert [one.name for one in shelf.root.iterdir()] == [f"export-{KEY[:12]}"]


def test_an_exception_leaves_the_artifact_that_was_there(exact: Shelf) -> None:
    before = tree(write(exact).directory)
    with pytest.raises(ZeroDivisionError):
        abandon(exact, "other")
    assert tree(exact.root) == before
    assert list(exact.root.parent.iterdir()) == [exact.root]


def test_a_new_artifact_takes_the_place_of_an_old_one(exact: Shelf) -> None:
    write(exact)
    assert write(exact, "other", b"new").key == "other"
    assert (exact.root / "model.onnx").read_bytes() == b"new"
    assert list(exact.root.parent.iterdir()) == [exact.root]


def test_equal_inputs_make_equal_bytes(tmp_path: Path) -> None:
    one, two = (write(Shelf(tmp_path / name)).directory for name in ("one", "two"))
    assert tree(one) == tree(two)


def test_a_full_disk_is_the_machines_fault(shelf: Shelf) -> None:
    with pytest.raises(MachineError, match="the disk is full"), shelf.draft("export", KEY, {}, {}):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert not shelf.root.exists()


def test_a_short_write_on_a_full_disk_is_told_alike(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """As numpy ends one: without an error number. With room left it is another error, and stays what it is."""
    for free, kind in ((4096, MachineError), (1 << 30, OSError)):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        with pytest.raises(kind), shelf.draft("export", KEY, {}, {}):
            raise OSError("4096 requested and 1024 written")


# --- what is not ours ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["thesis.txt", "manifest.json", "report.json", "deep/er/thesis.txt"])
def test_a_foreign_directory_is_refused_and_loses_nothing(exact: Shelf, name: str) -> None:
    (exact.root / name).parent.mkdir(parents=True)
    (exact.root / name).write_text("{}")
    with pytest.raises(RequestError, match=f"holds {Path(name).name}, which is not ours") as caught:
        write(exact)
    assert caught.value.exit_code == 2
    assert tree(exact.root) == {name: b"{}"}


def test_a_foreign_file_in_an_artifact_is_refused_and_stays(exact: Shelf) -> None:
    write(exact)
    (exact.root / "notes.txt").write_text("mine")
    before = tree(exact.root)
    with pytest.raises(RequestError, match=r"holds notes\.txt"):
        write(exact, "other")
    assert tree(exact.root) == before


def test_an_empty_directory_is_taken(exact: Shelf) -> None:
    exact.root.mkdir()
    assert write(exact).key == KEY


def test_a_file_in_the_way_is_refused(exact: Shelf) -> None:
    exact.root.write_text("mine")
    with pytest.raises(RequestError, match="is a file; choose another output directory"):
        write(exact)
    with pytest.raises(RequestError, match=r"child: cannot be made \(.+\); choose another -o"):
        write(Shelf(exact.root / "child", exact=True))
    assert exact.root.read_text() == "mine"


# --- found again -----------------------------------------------------------------------------------------------------


def test_find_returns_the_artifact_of_the_very_key(exact: Shelf) -> None:
    assert exact.find("export", KEY) is None
    made = write(exact)
    found = exact.find("export", KEY)
    assert found is not None
    assert (found.key, found.reused, made.reused) == (KEY, True, False)
    assert exact.find("export", "other") is None


@pytest.mark.parametrize("name", ["model.onnx", "parts/a.bin"])
def test_find_returns_no_artifact_with_a_truncated_file(shelf: Shelf, name: str) -> None:
    path = write(shelf).directory / name
    path.write_bytes(path.read_bytes()[:-1])
    assert shelf.find("export", KEY) is None


@pytest.mark.parametrize("name", ["model.onnx", "parts/a.bin", "manifest.json"])
def test_find_returns_no_artifact_with_a_missing_file(shelf: Shelf, name: str) -> None:
    (write(shelf).directory / name).unlink()
    assert shelf.find("export", KEY) is None


# --- what killed runs leave ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["out", "out [1]*"])
def test_partial_folders_of_dead_processes_are_swept_and_of_live_ones_kept(
    tmp_path: Path, name: str, dead: int, alive: int
) -> None:
    partial = {pid: tmp_path / f".{name}.partial-{pid}" for pid in (dead, alive)}
    for folder in partial.values():
        folder.mkdir()
        (folder / "model.onnx").touch()
    write(Shelf(tmp_path / name, exact=True))
    assert {path.name for path in tmp_path.iterdir()} == {name, partial[alive].name}


def test_partial_folders_of_other_places_are_kept(tmp_path: Path, dead: int) -> None:
    other = tmp_path / f".out2.partial-{dead}"
    other.mkdir()
    write(Shelf(tmp_path / "out", exact=True))
    assert other.is_dir()


def test_an_artifact_that_was_stepping_aside_comes_back(exact: Shelf, dead: int) -> None:
    """Killed between the two renames: the place is empty and the old artifact lies beside it."""
    before = tree(write(exact).directory)
    exact.root.rename(exact.root.with_name(f".out.replaced-{dead}"))
    claim(exact.root)
    assert tree(exact.root) == before


def test_an_artifact_that_had_stepped_aside_goes(exact: Shelf, dead: int) -> None:
    """Killed after the two renames: the new artifact is at its place, the old one is left over."""
    write(exact)
    aside = exact.root.with_name(f".out.replaced-{dead}")
    aside.mkdir()
    claim(exact.root)
    assert exact.root.is_dir()
    assert not aside.exists()
