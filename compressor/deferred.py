"""Modules that are loaded when they are first used: what a command may never need shall not delay it.

sympy takes half of the time that `import onnx_ir` takes, and serves to compute with the names of dimensions alone.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

DEFERRED = ("sympy", "onnx_ir._symbolic_shapes")


class Deferrer:
    """A finder that stands before Python's own, and puts its loader off for the modules of the list."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name in DEFERRED else None
        if spec is not None and spec.loader is not None:
            spec.loader = importlib.util.LazyLoader(spec.loader)
        return spec


def defer() -> None:
    """From now on; modules that are loaded already stay so."""
    if Deferrer not in sys.meta_path:
        sys.meta_path.insert(0, Deferrer)
