"""What a recipe can name, one line a part. Nothing is imported until it is asked for; a test resolves every line."""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

TARGETS = ("generic", "cpu", "cuda", "tensorrt")
ANYWHERE = TARGETS
CONTRIB = ("cpu", "cuda")  # ONNX Runtime's own operators; generic and TensorRT run the standard ones alone


class GraphPass(NamedTuple):
    """Where a pass stands, the targets that want it, and why they do."""

    where: str
    targets: tuple[str, ...]
    why: str


# In the order they run.
PASSES = {
    "dropout-removal": GraphPass(
        "passes.dropout_removal:DropoutRemoval", ANYWHERE, "inference drops nothing; the node only copies"
    ),
    "conv-batchnorm-fusion": GraphPass(
        "passes.conv_batchnorm_fusion:ConvBatchNormFusion", ANYWHERE, "one product instead of a product and a sweep"
    ),
    "constant-folding": GraphPass(
        "passes.constant_folding:ConstantFolding", ANYWHERE, "computed once here instead of at every call"
    ),
    "dead-node-elimination": GraphPass(
        "passes.dead_node_elimination:DeadNodeElimination", ANYWHERE, "what nobody reads is not computed"
    ),
}

SOLVERS = {
    "rtn": "compressor.quantize.rtn:RoundToNearest",
    "gptq": "compressor.quantize.gptq:Gptq",
}

MODELS = {
    "builtin:tiny-lm": "compressor.builtin:TINY_LM",
}


def passes_for(target: str) -> tuple[str, ...]:
    """The passes that a target wants, in the order they run."""
    return tuple(name for name, entry in PASSES.items() if target in entry.targets)


def resolve(target: str) -> Any:
    """`module:name` -> the object."""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)
