"""QTensors become compressed-tensors, format pack-quantized: 4- or 8-bit weights, activations as they are.

    weight_packed      int32 [out, in * bits / 32]     codes along the inputs, the first in the low bits
    weight_scale       float32 [out, groups]
    weight_zero_point  int32 [out * bits / 32, groups]  along the outputs; only where the grid is not symmetric
    weight_shape       int64 [2]                       out, in

A code is stored as code + 2^(bits-1) of a signed integer, which is the code of a QTensor.
Source: compressed-tensors, docs and `compressors/pack_quantized`; checked against 0.19 in transformers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from compressor.package.checkpoint import WEIGHT, Arrays, Layout, words
from compressor.quantize.qtensor import PER_CHANNEL, Choice, QTensor


def pack(tensor: QTensor, symmetric: bool) -> Arrays:
    """The tensors of a module."""
    codes, scale, zero = (part.cpu().numpy().T for part in (tensor.q, tensor.scale, tensor.zero))
    arrays = {
        "weight_packed": words(codes, tensor.bits),
        "weight_scale": np.ascontiguousarray(scale),
        "weight_shape": np.array(codes.shape, np.int64),
    }
    if not symmetric:
        arrays["weight_zero_point"] = np.ascontiguousarray(words(zero.T, tensor.bits).T)
    return arrays


def config(choices: Mapping[str, Choice], left_alone: Sequence[str], symmetric: bool) -> dict[str, Any]:
    """`quantization_config`: one group of modules for each choice; all Linears where there is but one."""
    kinds = sorted(set(choices.values()))
    groups = {}
    for index, kind in enumerate(kinds):
        named = [name.removesuffix(WEIGHT) for name, one in choices.items() if one == kind]
        targets = ["Linear"] if len(kinds) == 1 else named
        groups[f"group_{index}"] = {"targets": targets, "weights": _weights(kind, symmetric)} | dict.fromkeys(
            ("input_activations", "output_activations")
        )
    ignored = {name.removesuffix(WEIGHT) for name in left_alone}
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": groups,
        "ignore": sorted(ignored | ({"lm_head"} - {name.removesuffix(WEIGHT) for name in choices})),
    }


def _weights(kind: Choice, symmetric: bool) -> dict[str, Any]:
    per_channel = kind.group_size == PER_CHANNEL
    return {
        "num_bits": kind.bits,
        "type": "int",
        "symmetric": symmetric,
        "strategy": "channel" if per_channel else "group",
        "group_size": None if per_channel else kind.group_size,
        "dynamic": False,
    }


LAYOUT = Layout(pack, config, parts=4)
