"""An artifact is a directory that was written once (`shelf.py`), and is known by its key.

    <place>/            model.onnx, model.onnx.data, tokenizer.json, ...
    <place>/manifest.json   stage, key, input, options, versions, SHA-256 of every file: equal for equal inputs
    <place>/report.json     what may differ from run to run: seconds and measurements (never hashed)

A stage's key hashes its input's key, its own options and the versions that wrote it.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from compressor import __version__, installed
from compressor.disk import digest
from compressor.errors import RequestError

MANIFEST = "manifest.json"
MODEL = "model.onnx"
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
        """Names of files that are not what the manifest says, which a bare graph has none of; reads every byte."""
        said = {name: entry["sha256"] for name, entry in self.manifest["files"].items() if "sha256" in entry}
        return [name for name, sha256 in said.items() if _digest_or_none(self.directory / name) != sha256]


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


def key(stage: str, *parts: Any) -> str:
    """SHA-256 over a stage's name, its inputs and options, and the versions that compute it."""
    text = json.dumps([stage, *parts, versions()], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


@functools.cache
def versions() -> dict[str, str]:
    """Versions of this package and of the libraries that shape its artifacts."""
    found = {name: installed.version(name) for name in LIBRARIES}
    return {"compress": __version__} | {name: version for name, version in found.items() if version}


def _digest_or_none(path: Path) -> str | None:
    return digest(path) if path.is_file() else None
