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
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder
from threading import RLock
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

from compressor import installed

if TYPE_CHECKING:
    from importlib.abc import Loader  # brings tempfile, shutil and the libraries of three ways to compress

# Loaded when they are first used: imported by the libraries' own heads, and needed for what no pass asks of them.
DEFERRED = frozenset(
    {
        "sympy",  # half of what `import onnx_ir` takes; computes with the names of dimensions
        "onnx_ir._symbolic_shapes",
        "onnx_ir.schemas",
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
        # torch's own: a quarter of what `import torch` takes, and 17 MB
        "torch._meta_registrations",  # operators on tensors without data, written in Python; brings torch.Generator
        "torch.distributions",
        "torch.quantization",
        "torch.utils.data",
        # Python's own, which numpy, onnx, protobuf and shutil ask for at their heads
        "bz2",
        "calendar",
        "ctypes",
        "lzma",
        "pickle",
        "uuid",
    }
)
ANNOTATIONS = frozenset({"numpy.typing", "numpy._typing"})
METADATA = "importlib.metadata"
GARBAGE = 100_000  # containers made and not yet gone, before Python looks which of them are; its own number is 700
_LOCK = RLock()


class Deferred(ModuleType):
    """A module that is loaded when something of it is asked for that every module has not.

    Python's own LazyLoader loads at any question, and `import torch` asks each module there is for its file.
    """

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__all__":  # which `from ctypes import *` asks for
            raise AttributeError(name)
        self.load()
        return ModuleType.__getattribute__(self, name)

    def load(self) -> None:
        spec = self.__spec__
        with _LOCK:  # a second thread waits until it is whole; the first may ask for more of it on its way
            if spec is not None and isinstance(spec.loader, Later):
                spec.loader = spec.loader.loader
                spec.loader.exec_module(self)
                self.__class__ = ModuleType


class Annotations(Deferred):
    """numpy.typing or numpy._typing, of which NDArray and its like are written into annotations.

    Their unions take a quarter of numpy's time to build, and nobody reads them there; asked for more, they are loaded.
    """

    ArrayLike = DTypeLike = Any

    @property
    def NDArray(self) -> Any:  # noqa: N802  numpy's name
        return sys.modules["numpy"].ndarray

    def load(self) -> None:
        if self.__name__ == "numpy.typing":
            _ = sys.modules["numpy._typing"].NBitBase  # what it takes over is then numpy's own
        super().load()


class Later:
    """A loader that puts another one off."""

    def __init__(self, loader: Loader, kind: type[Deferred]) -> None:
        self.loader, self.kind = loader, kind

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self.kind(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        del module


@dataclass(frozen=True)
class Deferrer:
    """A finder that stands before Python's own, and puts its loader off for some modules."""

    names: frozenset[str]
    kind: type[Deferred] = Deferred

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name in self.names else None
        if spec is not None and spec.loader is not None:
            spec.loader = cast("Loader", Later(spec.loader, self.kind))
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
    """Put off the modules of DEFERRED from now on; what is loaded already stays loaded."""
    _put_off(Deferrer(DEFERRED))
    if METADATA not in sys.modules:
        importlib.__dict__["metadata"] = sys.modules[METADATA] = Metadata(METADATA)


def _put_off(deferrer: Deferrer) -> None:
    if deferrer not in sys.meta_path:
        sys.meta_path.insert(0, deferrer)


def hasten() -> None:
    """Make a command that works on graphs and multiplies no matrices start fast; called before it imports anything."""
    defer()
    _put_off(Deferrer(ANNOTATIONS, Annotations))
    gc.disable()  # what is imported stays
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's threads wait for work busily, and there is none


def settle() -> None:
    """After the imports: their objects are never searched for garbage again, and later ones seldom."""
    gc.freeze()
    gc.set_threshold(GARBAGE)
    gc.enable()
