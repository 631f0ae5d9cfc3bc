"""The torch side of a proof: transformers' own loading of the checkpoint, computing in float32.

small    loaded in float32
large    loaded as it is stored, which maps the shards and copies nothing; a module's weights become float32 while it
         runs, and are forgotten after
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from compressor import estimate
from compressor.export import unloaded
from compressor.export.shards import Shards
from compressor.export.unloaded import Unloaded

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Plan:
    """How a checkpoint will be held while torch computes the reference, and what that needs of memory."""

    dtype: torch.dtype
    parameters: int
    is_mapped: bool  # stored as it is computed with; converted tensors and mixed types are copied

    @classmethod
    def of(cls, origin: Unloaded) -> Plan:
        stored = Shards.of(origin.folder).stored_dtypes
        parameters = sum(nbytes // dtype.itemsize for dtype, nbytes in stored.items())
        if 4 * parameters < estimate.HELD_BELOW_BYTES or not stored:
            return cls(torch.float32, parameters, is_mapped=False)
        widest = max(stored, key=lambda dtype: dtype.itemsize)
        converted = any(len(one.names) > 1 for one in origin.origins.values())
        return cls(widest, parameters, is_mapped=len(stored) == 1 and not converted)

    @property
    def held_bytes(self) -> int:
        return 0 if self.is_mapped else self.dtype.itemsize * self.parameters

    @property
    def sentence(self) -> str:
        name = str(self.dtype).removeprefix("torch.")
        how = "mapped" if self.is_mapped else "held"
        return f"weights {how} in {name}, computed in float32"


def load(origin: Unloaded, plan: Plan) -> PreTrainedModel:
    """A model that computes in float32, whatever its weights are stored in."""
    model = unloaded.load_whole(origin.folder, origin.attention, plan.dtype)
    if plan.dtype != torch.float32:
        compute_in_float32(model, unloaded.build(model.config, origin.attention, torch.float32))
    return model


def compute_in_float32(model: PreTrainedModel, exact: PreTrainedModel) -> None:
    """Weights stay as they are stored, and are wide while their module runs; `exact`: built in float32, its buffers."""
    stored = model.state_dict()
    for name, buffer in exact.named_buffers():
        if name not in stored:  # computed, and in a narrow type it would be rounded
            _set_buffer(model, name, buffer, persistent=False)
        elif buffer.is_floating_point():
            _set_buffer(model, name, stored[name].float(), persistent=True)
    for module in model.modules():
        _widen_while_it_runs(module)


def _widen_while_it_runs(module: nn.Module) -> None:
    stored: list[tuple[nn.Parameter, Tensor]] = []
    read = [parameter for one in _read_by(module) for parameter in one.parameters(recurse=False)]

    def widen(_: nn.Module, __: Any) -> None:
        for parameter in read:
            stored.append((parameter, parameter.data))
            parameter.data = parameter.data.float()

    def forget(_: nn.Module, __: Any, ___: Any) -> None:
        while stored:
            parameter, data = stored.pop()
            parameter.data = data

    if read:
        module.register_forward_pre_hook(widen)
        module.register_forward_hook(forget)


def _read_by(module: nn.Module) -> list[nn.Module]:
    """A module and the children whose weights it takes itself: T5 asks `self.wo.weight.dtype` before it calls wo."""
    named = _weights_named_in(type(module).forward)
    return [module, *(child for name, child in module.named_children() if name in named)]


@functools.cache
def _weights_named_in(forward: Callable[..., Any]) -> frozenset[str]:
    try:
        return frozenset(re.findall(r"self\.(\w+)\.(?:weight|bias)\b", inspect.getsource(forward)))
    except (OSError, TypeError):  # made at run time: it has no source
        return frozenset()


def _set_buffer(model: nn.Module, path: str, buffer: Tensor, *, persistent: bool) -> None:
    module, _, name = path.rpartition(".")
    model.get_submodule(module).register_buffer(name, buffer, persistent=persistent)
