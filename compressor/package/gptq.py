"""QTensors become GPTQ tensors, version 1: what transformers, vLLM and onnxruntime-genai's builder read.

    qweight  int32 [in * bits / 32, out]        codes along the inputs, the first in the low bits
    qzeros   int32 [groups, out * bits / 32]    zero points along the outputs, each stored minus 1, modulo 2^bits
    scales   float16 [groups, out]
    g_idx    int32 [in]                         the group of each input; in order, for act-order moves no row here

Version 2 stores zero points as they are; vLLM once read it as version 1 (vllm issue 26343), so 1 is what we write.
Source: AutoGPTQ, qlinear; transformers, GPTQConfig; checked against onnxruntime-genai 0.18 and GPTQModel 7.6.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from compressor.package.checkpoint import Arrays, Layout, words
from compressor.quantize.qtensor import Choice, QTensor, group_of_row


def pack(tensor: QTensor, symmetric: bool) -> Arrays:
    """The four tensors of a module, symmetric or not; scales must be what a float16 holds (`Grid.half_scales`)."""
    del symmetric
    codes, zero = tensor.q.cpu().numpy(), tensor.zero.cpu().numpy()
    return {
        "qweight": np.ascontiguousarray(words(codes.T, tensor.bits).T),
        "qzeros": words((zero - np.uint8(1)) & np.uint8(2**tensor.bits - 1), tensor.bits),
        "scales": tensor.scale.cpu().numpy().astype(np.float16),
        "g_idx": group_of_row(tensor.shape[0], tensor.group_size).numpy().astype(np.int32),
    }


def config(choices: Mapping[str, Choice], left_alone: Sequence[str], symmetric: bool) -> dict[str, Any]:
    """`quantization_config`. Modules that differ from the most common choice stand under `dynamic`."""
    (usual, _), *_ = Counter(choices.values()).most_common(1)
    unlike = {_module(name): one._asdict() for name, one in choices.items() if one != usual}
    dynamic: dict[str, Any] = {f"+:^{re.escape(name)}$": one for name, one in unlike.items()}
    dynamic |= {f"-:^{re.escape(_module(name))}$": {} for name in left_alone if _module(name) != "lm_head"}
    base = {
        "quant_method": "gptq",
        "checkpoint_format": "gptq",
        "bits": usual.bits,
        "group_size": usual.group_size,
        "sym": symmetric,
        "desc_act": False,
        "lm_head": "lm_head.weight" in choices,
        "pack_dtype": "int32",
    }
    return base | ({"dynamic": dynamic} if dynamic else {})


def _module(weight: str) -> str:
    return weight.removesuffix(".weight")


LAYOUT = Layout(pack, config, parts=4)
