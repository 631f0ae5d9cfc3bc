"""A checkpoint's folder becomes a model of transformers: evaluation mode, one dtype, every weight from the files.

Attention is traced in the form that the opset says best: from 23 on sdpa is one Attention operator; below it would need
a repair of NaN in every layer, which the additive mask of eager attention does without.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from compressor.errors import RequestError
from compressor.export.tasks import Task
from compressor.export.tracing import FIRST_OPSET_WITH_ATTENTION, line, quiet
from compressor.recipe import Export

if TYPE_CHECKING:
    from transformers import PreTrainedModel

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Loaded:
    """A model, and the weights that its checkpoint lacks: they hold random numbers and must reach no output."""

    model: PreTrainedModel
    lacking: frozenset[str]


def load(folder: Path, task: Task, wanted: Export) -> Loaded:
    """Raises: RequestError when transformers cannot load it, or its files are broken."""
    import transformers

    auto = getattr(transformers, task.auto)
    options: dict[str, Any] = {
        "dtype": DTYPES[wanted.dtype],
        "use_safetensors": any(folder.glob("*.safetensors")),  # a pickle is read by torch with weights_only
        "local_files_only": True,
        "trust_remote_code": wanted.trust_remote_code,
        "output_loading_info": True,
    }
    with quiet():
        try:
            model, info = auto.from_pretrained(folder, attn_implementation=attention(wanted.opset), **options)
        except Exception as error:  # transformers' own kinds; a model that has no sdpa computes the same in eager form
            if "attn_implementation" not in str(error) and "scaled_dot_product" not in str(error):
                raise RequestError(f"{folder}: transformers cannot load it for {task.name}: {line(error)}") from error
            model, info = auto.from_pretrained(folder, attn_implementation="eager", **options)
    return Loaded(model.eval(), frozenset(info["missing_keys"]))


def attention(opset: int) -> str:
    """The form of attention that an opset says best."""
    return "sdpa" if opset >= FIRST_OPSET_WITH_ATTENTION else "eager"
