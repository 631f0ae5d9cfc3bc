"""A checkpoint with some weights replaced by their packed form; every other tensor is copied byte for byte.

    model.safetensors: a.weight, a.bias, norm.weight   ->   a.qweight, a.scales, ..., a.bias, norm.weight

One shard after another and one tensor after another, so no more than one weight is in memory. A safetensors file is
8 bytes of length, a JSON header padded with spaces, then the data; room for the header is left and filled at the end.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from compressor.disk import PIECE, pieces, write_json
from compressor.package.shards import Stored, read_header
from compressor.quantize.qtensor import Choice, QTensor

INDEX = "model.safetensors.index.json"
WEIGHT = ".weight"
HEADER_BYTES = 160  # of a tensor besides its name: dtype, shape and two offsets of 20 digits at most
DTYPES = {"int32": "I32", "int64": "I64", "float16": "F16", "float32": "F32"}

Arrays = Mapping[str, NDArray[Any]]


class Piece(NamedTuple):
    """A tensor of the checkpoint that is a weight, or so many of its columns."""

    name: str
    rows: int
    columns: int


Places = Mapping[str, Sequence[Piece]]  # by the name of the weight in the graph; its pieces side by side


class Layout(NamedTuple):
    """A format: what a QTensor becomes beside its module's name, and the `quantization_config` that says so."""

    pack: Callable[[QTensor, bool], Arrays]  # bool: the grid is symmetric
    config: Callable[[Mapping[str, Choice], Sequence[str], bool], dict[str, Any]]
    parts: int  # tensors that a weight becomes, at most


def write(
    source: Path,
    folder: Path,
    layout: Layout,
    places: Places,
    load: Callable[[str], QTensor],
    *,
    symmetric: bool,
) -> dict[str, int]:
    """Write the shards; returns the bytes of each packed weight. places: where the quantized weights lie."""
    headers = {path: read_header(path) for path in sorted(source.glob("*.safetensors"))}
    weight_of = {piece.name: (weight, at) for weight, pieces in places.items() for at, piece in enumerate(pieces)}
    sizes = dict.fromkeys(places, 0)
    where: dict[str, str] = {}

    def add_packed(shard: _Shard, name: str) -> None:
        weight, at = weight_of[name]
        tensor, before = load(weight).split([piece.columns for piece in places[weight]])[at], shard.nbytes
        for part, array in layout.pack(tensor, symmetric).items():
            shard.add(f"{name.removesuffix(WEIGHT)}.{part}", array)
        sizes[weight] += shard.nbytes - before

    for path, header in headers.items():
        packed = weight_of.keys() & header.keys()
        with _Shard.create(folder / path.name, header, len(packed) * layout.parts) as shard:
            for name, stored in header.items():
                if name in packed:
                    add_packed(shard, name)
                else:
                    shard.copy(name, stored, path)
        where |= dict.fromkeys(shard.entries, path.name)
    if len(headers) > 1:
        total = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": where})
    return sizes


def add_config(folder: Path, quantization: Mapping[str, Any]) -> None:
    """Put `quantization_config` into the model's configuration."""
    path = folder / "config.json"
    write_json(path, {**json.loads(path.read_text(encoding="utf-8")), "quantization_config": quantization})


def words(codes: NDArray[np.uint8], bits: int) -> NDArray[np.int32]:
    """[rows, n] codes -> int32 [rows, ceil(n * bits / 32)], the first code in the low bits. bits 8, 4 or 2."""
    cells = 32 // bits
    padded = np.pad(codes, ((0, 0), (0, -codes.shape[1] % cells))).astype(np.uint32)
    packed = np.zeros((len(codes), padded.shape[1] // cells), np.uint32)
    for cell in range(cells):
        packed |= padded[:, cell::cells] << np.uint32(cell * bits)
    return packed.view(np.int32)


@dataclass
class _Shard:
    """A safetensors file being written."""

    file: IO[bytes]
    room: int
    entries: dict[str, dict[str, Any]] = field(default_factory=dict)
    nbytes: int = 0

    @classmethod
    def create(cls, path: Path, header: Mapping[str, Stored], more: int) -> _Shard:
        longest = max(map(len, header), default=0) + len("_zero_point")
        room = sum(len(json.dumps(name)) + HEADER_BYTES for name in header) + more * (longest + HEADER_BYTES)
        shard = cls(path.open("wb"), -(-room // 8) * 8)
        shard.file.seek(8 + shard.room)
        return shard

    def add(self, name: str, array: NDArray[Any]) -> None:
        self._put(name, DTYPES[str(array.dtype)], list(array.shape), pieces(array))

    def copy(self, name: str, stored: Stored, path: Path) -> None:
        self._put(name, stored.dtype, stored.shape, _read(path, stored))

    def _put(self, name: str, dtype: str, shape: list[int], chunks: Iterable[bytes | memoryview]) -> None:
        begin = self.nbytes
        for chunk in chunks:
            self.file.write(chunk)
            self.nbytes += len(chunk)
        self.entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, self.nbytes]}

    def __enter__(self) -> _Shard:
        return self

    def __exit__(self, *error: object) -> None:
        header = json.dumps({"__metadata__": {"format": "pt"}, **self.entries}).encode()
        self.file.seek(0)
        self.file.write(struct.pack("<Q", self.room) + header.ljust(self.room))
        self.file.close()


def _read(path: Path, stored: Stored) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(stored.begin)
        left = stored.nbytes
        while left:
            chunk = file.read(min(left, PIECE))
            left -= len(chunk)
            yield chunk
