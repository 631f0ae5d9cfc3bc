"""A torch module whose inputs and outputs are plain lists of tensors with names, whatever it takes and returns itself.

CNN(x, scale=s) -> {"logits": y}      Flat(cnn, ("x", "scale"))(x, s) -> [y], its outputs named ("logits",)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from compressor.errors import RequestError


class Flat(nn.Module):
    """Calls a module with keyword arguments and hands on the outputs that are asked for, all where none is named."""

    def __init__(
        self,
        module: nn.Module,
        inputs: Sequence[str],
        options: Mapping[str, Any] | None = None,
        outputs: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.wrapped, self.training = module, module.training
        self.inputs, self.options, self.outputs = tuple(inputs), dict(options or {}), tuple(outputs)

    def forward(self, *tensors: Tensor) -> list[Tensor]:
        result = self.wrapped(**dict(zip(self.inputs, tensors, strict=True)), **self.options)
        return [result[name] for name in self.outputs] if self.outputs else list(named(result).values())


def named(result: Any) -> dict[str, Tensor]:
    """The tensors of a result with their names: `output`, `output_0` and on, or the keys it has."""
    if isinstance(result, Tensor):
        return {"output": result}
    parts = result if isinstance(result, Mapping) else {f"output_{at}": one for at, one in enumerate(result)}
    kept = {str(name): one for name, one in parts.items() if one is not None}
    odd = [name for name, one in kept.items() if not isinstance(one, torch.Tensor)]
    if odd:
        raise RequestError(f"the module returns {odd[0]}, which is no tensor; wrap it in one that returns tensors")
    return kept
