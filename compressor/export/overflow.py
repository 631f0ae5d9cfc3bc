"""`if h.dtype == float16 and not isfinite(h).all(): h = clamp(h)`: a branch on data, which a trace cannot hold.

While a model is traced, what asks whether a value has overflowed is told that it has, so that the clamp is part of the
graph. Where nothing overflows it changes no number below the bound, the largest of float16 less 1000.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

# The question entry by entry -> how it is asked of all entries, and the answer when one has overflowed.
QUESTIONS = {torch.isfinite: (Tensor.all, False), torch.isinf: (Tensor.any, True)}


class Overflowing(TorchFunctionMode):
    """Inside of it, of float16, `bool(torch.isfinite(h).all())` is False and `bool(torch.isinf(h).any())` is True."""

    def __init__(self) -> None:
        super().__init__()
        self._entries: list[tuple[Tensor, Any, bool]] = []  # held, for an identity is only theirs while they live
        self._answers: list[tuple[Tensor, bool]] = []

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is Tensor.__bool__:
            known = [answer for tensor, answer in self._answers if tensor is args[0]]
            if known:
                return known[0]
        result = func(*args, **(kwargs or {}))
        if func in QUESTIONS and args[0].dtype == torch.float16:
            self._entries.append((result, *QUESTIONS[func]))
        self._answers += [
            (result, answer) for tensor, whole, answer in self._entries if args and tensor is args[0] and func is whole
        ]
        return result
