"""Quantized checkpoints read by the public layouts typed out, and nothing of ours: GPTQ version 1, pack-quantized."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open

Held = Mapping[str, np.ndarray]


def held(folder: Path) -> dict[str, np.ndarray]:
    """Every tensor of a checkpoint; bfloat16, which numpy does not know, as float32."""
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        found |= {name: (t.float() if t.dtype == torch.bfloat16 else t).numpy() for name, t in tensors.items()}
    return found


def config(folder: Path) -> dict[str, Any]:
    whole: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return dict(whole["quantization_config"])


def cell(words: np.ndarray, index: int, bits: int) -> np.ndarray:
    """Code `index` of each column; int32 words along the first axis are one row of bits, the lowest first."""
    stream = words.view(np.uint32).astype(np.uint64)
    word, shift = divmod(index * bits, 32)
    later = stream[word + 1] if shift + bits > 32 else np.zeros_like(stream[word])
    return (stream[word] >> np.uint64(shift) | later << np.uint64(32 - shift)) & np.uint64(2**bits - 1)


def gptq(tensors: Held, module: str, bits: int) -> np.ndarray:
    """weight [in, out] = (code - (qzero + 1 modulo 2^bits)) * scale, by the group that g_idx names."""
    codes, scales, groups = (tensors[f"{module}.{part}"] for part in ("qweight", "scales", "g_idx"))
    zeros = tensors[f"{module}.qzeros"].T
    stored = np.array([cell(zeros, column, bits) for column in range(scales.shape[1])]).T.astype(np.int64)
    zero, scale = (stored + 1) % 2**bits, scales.astype(np.float32)
    rows = [(cell(codes, row, bits).astype(np.float32) - zero[g]) * scale[g] for row, g in enumerate(groups)]
    return np.array(rows, np.float32)


def compressed(tensors: Held, module: str, options: Mapping[str, Any]) -> np.ndarray:
    """weight [in, out]; `options` are those of its group's weights. A code lies 2^(bits-1) above its signed value."""
    bits, (columns, rows) = options["num_bits"], tensors[f"{module}.weight_shape"]
    scale, codes = tensors[f"{module}.weight_scale"].astype(np.float32), tensors[f"{module}.weight_packed"].T
    zeros, size = tensors.get(f"{module}.weight_zero_point"), options["group_size"] or rows
    zero = np.full((columns, scale.shape[1]), 2.0 ** (bits - 1), np.float32)
    if zeros is not None:
        zero = np.array([cell(zeros, column, bits) for column in range(columns)]).astype(np.float32)
    parts = [(cell(codes, row, bits).astype(np.float32) - zero[:, row // size]) * scale[:, row // size]
             for row in range(rows)]  # fmt: skip
    return np.array(parts, np.float32)


def weights(folder: Path) -> dict[str, np.ndarray]:
    """Every quantized weight of a checkpoint, [in, out], whichever of the two formats it is in."""
    tensors, options = held(folder), config(folder)
    if options["quant_method"] == "gptq":
        modules = [name.removesuffix(".qweight") for name in tensors if name.endswith(".qweight")]
        return {f"{name}.weight": gptq(tensors, name, options["bits"]) for name in modules}
    (group,) = options["config_groups"].values()
    modules = [name.removesuffix(".weight_packed") for name in tensors if name.endswith(".weight_packed")]
    return {f"{name}.weight": compressed(tensors, name, group["weights"]) for name in modules}
