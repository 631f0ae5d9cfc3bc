"""QTensors on disk: one safetensors file for each weight, so that neither writing nor reading holds more than one."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from compressor import disk
from compressor.quantize.codebook import CodebookTensor
from compressor.quantize.machine import ranks
from compressor.quantize.qtensor import QTensor

FOLDER = "qtensors"


@dataclass(frozen=True)
class Reader:
    """The QTensors of a quantized artifact."""

    directory: Path

    def read(self, name: str) -> QTensor:
        """The QTensor of a weight."""
        facts, q, scale = self._parts(name)
        return QTensor(q, scale, self._open(name, "zero"), facts["bits"], facts["group_size"])

    def read_codebook(self, name: str) -> CodebookTensor:
        """The CodebookTensor of a weight."""
        facts, q, scale = self._parts(name)
        return CodebookTensor(q, scale, facts["book"], facts["block_size"])

    def _parts(self, name: str) -> tuple[dict[str, Any], Tensor, Tensor]:
        with safe_open(self.directory / file_of(name), framework="pt") as file:
            return json.loads(file.metadata()["qtensor"]), file.get_tensor("q"), file.get_tensor("scale")

    def _open(self, name: str, part: str) -> Tensor:
        with safe_open(self.directory / file_of(name), framework="pt") as file:
            tensor: Tensor = file.get_tensor(part)
            return tensor


def write(folder: Path, name: str, tensor: QTensor | CodebookTensor) -> None:
    """Add the quantized form of a weight to the folder of an artifact; of several ranks one writes."""
    if not ranks.leads():
        return
    path = folder / file_of(name)
    path.parent.mkdir(exist_ok=True)
    parts: dict[str, Tensor] = {"q": tensor.q, "scale": tensor.scale}
    if isinstance(tensor, QTensor):
        parts["zero"] = tensor.zero
        facts: dict[str, Any] = {"bits": tensor.bits, "group_size": tensor.group_size, "weight": name}
    else:
        facts = {"book": tensor.book, "block_size": tensor.block_size, "weight": name}
    content = save({key: part.cpu().contiguous() for key, part in parts.items()}, {"qtensor": json.dumps(facts)})
    with path.open("wb") as file:  # not by save_file, which writes a tensor in one piece
        disk.write(file, np.frombuffer(content, np.uint8))
    disk.begin_flush(path)


def file_of(name: str) -> str:
    """A file for any weight's name, those with slashes and those too long for a file system included."""
    readable = "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in name)[-80:]
    return f"{FOLDER}/{readable}-{hashlib.sha256(name.encode()).hexdigest()[:8]}.safetensors"
