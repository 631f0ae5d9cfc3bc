"""The safetensors of a checkpoint, mapped: names and shapes are read from headers, data when a tensor is asked for."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor

from compressor.errors import RequestError

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"


@dataclass(frozen=True)
class Shards:
    """Tensors of a folder by name."""

    folder: Path
    handles: Mapping[str, Any] = field(repr=False)  # name of a tensor -> the open file that holds it

    @classmethod
    def of(cls, folder: Path) -> Shards:
        """Raises: RequestError when a shard is missing or broken, or lies elsewhere."""
        return cls(folder, {name: handle for path in _files(folder) for name, handle in _opened(path)})

    def read(self, name: str) -> Tensor:
        tensor: Tensor = self.handles[name].get_tensor(name)
        return tensor

    def without_data(self, name: str) -> Tensor:
        """A tensor of the same dtype and shape that holds nothing."""
        return self.read(name).to("meta")

    @property
    def stored_dtypes(self) -> dict[torch.dtype, int]:
        """Floating-point types of the tensors, and how many bytes each has."""
        found: dict[torch.dtype, int] = {}
        for tensor in map(self.without_data, self.handles):
            if tensor.is_floating_point():
                found[tensor.dtype] = found.get(tensor.dtype, 0) + tensor.nbytes
        return found


def _files(folder: Path) -> list[Path]:
    """The shards that transformers would load: the one file, or those of the index."""
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    if not (folder / INDEX).is_file():
        raise RequestError(f"{folder}: neither {SINGLE} nor {INDEX}")
    try:
        names = sorted(set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError):
        raise RequestError(f"{folder / INDEX}: not an index of shards; download it again") from None
    if outside := [name for name in names if Path(name).name != name]:
        raise RequestError(f"{folder / INDEX}: names {outside[0]}, which lies outside the model's folder; refused")
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise RequestError(f"{folder}: shard {missing[0]} is missing; download it again")
    return [folder / name for name in names]


def _opened(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        handle: Any = safetensors.safe_open(path, framework="pt")
    except (safetensors.SafetensorError, OSError) as error:
        raise RequestError(f"{path}: not a whole safetensors file ({error}); download it again") from None
    for name in handle.keys():  # noqa: SIM118 - a handle is no mapping
        yield name, handle
