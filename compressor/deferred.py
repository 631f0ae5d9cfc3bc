"""What a short command starts without: modules that it may never use, threads that only wait, sweeps for garbage.

Python with numpy, onnx, onnx_ir and ONNX Runtime takes longer to start than most graphs take to be optimized; what is
named here is a fifth of that.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
from collections.abc import Sequence
from importlib.abc import Loader
from importlib.machinery import ModuleSpec, PathFinder
from threading import RLock
from types import ModuleType
from typing import Any

from compressor import installed

# Loaded when they are first used: imported by the libraries' own heads, and needed for what no pass asks of them.
DEFERRED = frozenset(
    {
        "sympy",  # half of what `import onnx_ir` takes; computes with the names of dimensions
        "onnx_ir._symbolic_shapes",
        "onnx.compose",
        "onnx.gen_proto",
        "onnx.parser",
        "onnx.printer",
        "onnx.utils",
        "onnx.version_converter",
        "google.protobuf.json_format",
        "google.protobuf.text_format",
        "packaging.version",  # asked for by onnx_ir's safetensors alone
        "numpy._core._add_newdocs",  # writes the docstrings of what is written in C
        "numpy._core._add_newdocs_scalars",
    }
)
METADATA = "importlib.metadata"
GARBAGE = 100_000  # containers made and not yet gone, before Python looks which of them are; its own number is 700


_LOCK = RLock()


class Deferred(ModuleType):
    """A module that is loaded when something of it is asked for that every module has not.

    Python's own LazyLoader loads at any question, and `import torch` asks each module there is for its file.
    """

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        spec = self.__spec__
        with _LOCK:  # a second thread waits until it is whole; the first may ask for more of it on its way
            if spec is not None and isinstance(spec.loader, Later):
                spec.loader = spec.loader.loader
                spec.loader.exec_module(self)
                self.__class__ = ModuleType  # type: ignore[assignment]
        return ModuleType.__getattribute__(self, name)


class Later(Loader):
    """A loader that puts another one off."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return Deferred(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        del module


class Deferrer:
    """A finder that stands before Python's own, and puts its loader off for the modules of the list."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name in DEFERRED else None
        if spec is not None and spec.loader is not None:
            spec.loader = Later(spec.loader)
        return spec


class Metadata(ModuleType):
    """In the place of importlib.metadata, which onnx asks for its own version and for nothing else."""

    def version(self, name: str) -> str:
        return installed.version(name) or str(self._loaded().version(name))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loaded(), name)

    def _loaded(self) -> ModuleType:
        if sys.modules.get(METADATA) is self:
            del sys.modules[METADATA]
        return importlib.import_module(METADATA)


def defer() -> None:
    """From now on; modules that are loaded already stay so."""
    if Deferrer not in sys.meta_path:
        sys.meta_path.insert(0, Deferrer)
    if METADATA not in sys.modules:
        importlib.__dict__["metadata"] = sys.modules[METADATA] = Metadata(METADATA)


def hasten() -> None:
    """For a command that works on graphs and multiplies no matrices, before it imports anything."""
    defer()
    gc.disable()  # what is imported stays
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's threads wait for work busily, and there is none


def settle() -> None:
    """After the imports: what is there now is never looked through for garbage, and what comes is, but seldom."""
    gc.freeze()
    gc.set_threshold(GARBAGE)
    gc.enable()
