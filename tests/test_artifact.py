"""An artifact is known by its key, and knows which of its files are not what they were."""

from __future__ import annotations

from pathlib import Path

import pytest

from compressor import artifact
from compressor.errors import RequestError
from compressor.shelf import Shelf
from tests.test_shelf import KEY, write


@pytest.mark.parametrize("text", ["", "[]", "{}", "not JSON"])
def test_a_directory_without_our_manifest_is_no_artifact(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(RequestError, match=r"no artifact \(manifest\.json is missing or not ours\)"):
        artifact.open_artifact(tmp_path)


def test_the_key_depends_on_stage_input_options_and_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {KEY}
    keys.add(artifact.key("optimize", "input", {"opset": 21}))
    keys.add(artifact.key("export", "other input", {"opset": 21}))
    keys.add(artifact.key("export", "input", {"opset": 22}))
    monkeypatch.setattr(artifact, "versions", lambda: {"compress": "another"})
    keys.add(artifact.key("export", "input", {"opset": 21}))
    assert len(keys) == 5


def test_the_key_does_not_depend_on_the_order_of_options() -> None:
    assert artifact.key("a", {"b": 1, "c": 2}) == artifact.key("a", {"c": 2, "b": 1})


def test_damaged_finds_one_flipped_bit(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    made = write(shelf)
    assert made.damaged() == []
    path = made.directory / "parts" / "a.bin"
    path.write_bytes(path.read_bytes()[:200] + b"`" + path.read_bytes()[201:])  # a is 0x61, ` is 0x60
    assert made.damaged() == ["parts/a.bin"]
    assert shelf.find("export", KEY) is not None  # find looks at sizes, so that a resume reads no gigabytes


def test_damaged_names_a_missing_file(tmp_path: Path) -> None:
    made = write(Shelf(tmp_path))
    made.model.unlink()
    assert made.damaged() == ["model.onnx"]
