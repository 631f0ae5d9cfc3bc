"""QTensors on disk: one safetensors file for each weight, so that neither writing nor reading holds more than one."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file

from compressor.quantize.qtensor import QTensor

FOLDER = "qtensors"


@dataclass(frozen=True)
class Reader:
    """The QTensors of a quantized artifact."""

    directory: Path

    def read(self, name: str) -> QTensor:
        """The QTensor of a weight."""
        with safe_open(self.directory / file_of(name), framework="pt") as file:
            facts = json.loads(file.metadata()["qtensor"])
            q, scale, zero = (file.get_tensor(part) for part in ("q", "scale", "zero"))
        return QTensor(q, scale, zero, facts["bits"], facts["group_size"])


def write(folder: Path, name: str, tensor: QTensor) -> None:
    """Add the QTensor of a weight to the folder of an artifact."""
    path = folder / file_of(name)
    path.parent.mkdir(exist_ok=True)
    facts = json.dumps({"bits": tensor.bits, "group_size": tensor.group_size, "weight": name})
    parts = {"q": tensor.q, "scale": tensor.scale, "zero": tensor.zero}
    save_file({key: part.cpu().contiguous() for key, part in parts.items()}, path, metadata={"qtensor": facts})


def file_of(name: str) -> str:
    """A file for any weight's name, those with slashes and those too long for a file system included."""
    readable = "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in name)[-80:]
    return f"{FOLDER}/{readable}-{hashlib.sha256(name.encode()).hexdigest()[:8]}.safetensors"
