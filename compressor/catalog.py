"""What a recipe can name, one line a part. Nothing is imported until it is asked for; a test resolves every line."""

from __future__ import annotations

import importlib
from typing import Any

PASSES = {
    "dropout-removal": "passes.dropout_removal:DropoutRemoval",
    "conv-batchnorm-fusion": "passes.conv_batchnorm_fusion:ConvBatchNormFusion",
    "constant-folding": "passes.constant_folding:ConstantFolding",
    "dead-node-elimination": "passes.dead_node_elimination:DeadNodeElimination",
}

SOLVERS = {
    "rtn": "compressor.quantize.rtn:RoundToNearest",
    "gptq": "compressor.quantize.gptq:Gptq",
}

MODELS = {
    "builtin:tiny-lm": "compressor.builtin:TINY_LM",
}


def resolve(target: str) -> Any:
    """`module:name` -> the object."""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)
