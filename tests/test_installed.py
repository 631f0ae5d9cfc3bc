"""The names of folders tell what importlib.metadata tells, and it is asked where they do not."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from compressor import artifact, installed
from tests.conftest import ROOT


def test_every_installed_library_has_the_version_it_says() -> None:
    names = {str(one.metadata["Name"]) for one in importlib.metadata.distributions()}
    assert len(names) > 20
    assert {name: installed.version(name) for name in names} == {
        name: importlib.metadata.version(name) for name in names
    }


def test_what_is_not_installed_has_none() -> None:
    assert installed.version("no-such-library") is None
    assert "no-such-library" not in artifact.versions()


@pytest.mark.parametrize("folders", [["a_b.egg-info"], ["a_b-1.0.dist-info", "A.B-2.0.dist-info"]])
def test_what_no_name_tells_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folders: list[str]) -> None:
    for folder in folders:
        (tmp_path / folder).mkdir()
        for file in ("METADATA", "PKG-INFO"):
            (tmp_path / folder / file).write_text("Name: a-b\nVersion: 3.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert installed.version("a-b") == "3.0"


def test_a_library_in_a_zip_file_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as file:
        file.writestr("zipped-1.5.dist-info/METADATA", "Name: zipped\nVersion: 1.5\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "all.zip"), *sys.path])
    assert installed.version("zipped") == "1.5"


def test_whoever_wants_more_than_a_version_gets_the_real_one() -> None:
    code = """
import sys
from compressor.command.deferred import defer
defer()
import importlib.metadata
assert importlib.metadata.version("numpy") and "email" not in sys.modules
from importlib.metadata import PackageNotFoundError
import importlib.metadata as real
assert real.version("numpy") == real.metadata("numpy")["Version"] and "email" in sys.modules
try:
    real.version("no-such-library")
except PackageNotFoundError:
    print("done")
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert ended.stdout == "done\n"
