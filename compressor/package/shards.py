"""What a safetensors file holds, read off its header: 8 bytes of length, then JSON. No tensor is loaded."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import NamedTuple

from compressor.errors import RequestError

METADATA = "__metadata__"


class Stored(NamedTuple):
    """A tensor of the file: its type, its shape, and where its bytes lie."""

    dtype: str
    shape: list[int]
    begin: int
    nbytes: int


def read_header(path: Path) -> dict[str, Stored]:
    """The file's tensors in the order of their bytes. Raises: RequestError when the header is none."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if 8 + length > path.stat().st_size:
                raise ValueError("truncated")
            header = json.loads(file.read(length))
        entries = {name: _stored(entry, 8 + length) for name, entry in header.items() if name != METADATA}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise RequestError(f"{path}: not a whole safetensors file ({error}); download it again") from None
    if any(one.begin + one.nbytes > path.stat().st_size for one in entries.values()):
        raise RequestError(f"{path}: not a whole safetensors file (truncated); download it again")
    return dict(sorted(entries.items(), key=lambda one: one[1].begin))


def _stored(entry: dict[str, list[int]], data: int) -> Stored:
    begin, end = entry["data_offsets"]
    return Stored(str(entry["dtype"]), entry["shape"], data + begin, end - begin)
