"""Versions of installed libraries, by the names of the folders that pip leaves beside them.

    site-packages/onnx_ir-1.0.1.dist-info      version("onnx-ir") == "1.0.1"

importlib.metadata reads what lies in the folder, with Python's parser of e-mails: to load that takes as long as
optimizing a small graph does. It is asked only where the names of the folders do not tell.
"""

from __future__ import annotations

import functools
import importlib
import os
import re
import sys
from contextlib import suppress

INFO = (".dist-info", ".egg-info")


def version(name: str) -> str | None:
    """As importlib.metadata has it; None where the library is not installed."""
    for place in sys.path:
        found = _folders(place or ".").get(_normal(name), [])
        if len(found) == 1 and found[0].endswith(INFO[0]):
            return found[0].removesuffix(INFO[0]).partition("-")[2]
        if found or os.path.isfile(place):  # without a version, of several versions, or in a zip file
            return _asked(name)
    return None


@functools.cache
def _folders(place: str) -> dict[str, list[str]]:
    """The folders of a place on Python's path by the library that each describes."""
    found: dict[str, list[str]] = {}
    with suppress(OSError):
        for one in os.listdir(place):
            if one.endswith(INFO):
                found.setdefault(_normal(one.rpartition(".")[0].partition("-")[0]), []).append(one)
    return found


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _asked(name: str) -> str | None:
    metadata = importlib.import_module("importlib.metadata")
    try:
        return str(metadata.version(name))
    except metadata.PackageNotFoundError:
        return None
