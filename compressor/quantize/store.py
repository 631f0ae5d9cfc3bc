"""QTensors on disk: one safetensors file for each weight, so that neither writing nor reading holds more than one."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor

from compressor import disk
from compressor.quantize.codebook import CodebookTensor
from compressor.quantize.machine import ranks
from compressor.quantize.qtensor import QTensor

FOLDER = "qtensors"
DTYPES = {"uint8": "U8", "float32": "F32"}  # as safetensors names them


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
    parts: dict[str, Tensor] = {"scale": tensor.scale, "q": tensor.q}
    if isinstance(tensor, QTensor):
        parts["zero"] = tensor.zero
        facts: dict[str, Any] = {"bits": tensor.bits, "group_size": tensor.group_size, "weight": name}
    else:
        facts = {"book": tensor.book, "block_size": tensor.block_size, "weight": name}
    _save({key: part.cpu().contiguous().numpy() for key, part in parts.items()}, path, {"qtensor": json.dumps(facts)})
    disk.begin_flush(path)


def _save(parts: Mapping[str, NDArray[Any]], path: Path, metadata: Mapping[str, str]) -> None:
    """The bytes of safetensors' save_file, which writes a tensor in one piece."""
    header, end = dict[str, Any](__metadata__=metadata), 0
    for name, part in parts.items():
        begin, end = end, end + part.nbytes
        header[name] = {"dtype": DTYPES[str(part.dtype)], "shape": part.shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for part in parts.values():
            disk.write(file, part)


def file_of(name: str) -> str:
    """A file for any weight's name, those with slashes and those too long for a file system included."""
    readable = "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in name)[-80:]
    return f"{FOLDER}/{readable}-{hashlib.sha256(name.encode()).hexdigest()[:8]}.safetensors"
