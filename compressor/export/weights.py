"""Parameters of a model as lazy tensors: read from the checkpoint one at a time, when they are written.

    mapping   name in the model <- names in the checkpoint, by transformers' own conversion rules: renamed, or
              merged and split (the experts of a mixture), tried on tensors without data first
    attach    every weight of a graph gets its origin; one with two names is stored once

A parameter that the checkpoint lacks, or has in another shape, ends the export before anything is written.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO

import onnx_ir as ir
import torch
from torch import Tensor

from compressor.disk import PIECE
from compressor.errors import RequestError
from compressor.export.shards import Shards

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BLOCK_BYTES = PIECE  # of a tensor that are converted and written at a time


class ConversionError(Exception):
    """Carries the reason why a checkpoint's tensors cannot be converted one parameter at a time."""


@dataclass(frozen=True)
class Origin:
    """Where one parameter comes from: names in the checkpoint, its shape, and how to read it."""

    names: tuple[str, ...]
    shape: torch.Size
    read: Callable[[], Tensor] = field(repr=False)


Origins = Mapping[str, Origin]


class Streamed(ir.LazyTensor):
    """Read and converted when it is written, a block of rows at a time; never held."""

    def __init__(self, name: str, origin: Origin, dtype: torch.dtype) -> None:
        self._origin, self._wanted = origin, dtype
        shape = ir.Shape(origin.shape)
        super().__init__(self._whole, ir.tensor_adapters.from_torch_dtype(dtype), shape, name=name)

    def tofile(self, file: BinaryIO) -> None:
        tensor = self._origin.read()
        block = max(1, BLOCK_BYTES // max(1, tensor[:1].numel() * self._wanted.itemsize)) if tensor.ndim else 1
        for rows in torch.split(tensor, block) if tensor.ndim else [tensor]:
            file.write(self._adapted(rows).tobytes())

    def _whole(self) -> ir.TensorProtocol:
        return self._adapted(self._origin.read())

    def _adapted(self, tensor: Tensor) -> ir.TensorProtocol:
        return ir.tensor_adapters.TorchTensor(tensor.detach().to(self._wanted).contiguous(), name=self.name)


def attach(graph: ir.Graph, model: PreTrainedModel, origins: Origins) -> None:
    """Give the graph's weights their values.

    `model` has parameters of the right shapes, whatever their values, and the right buffers.
    Raises: RequestError when a parameter is missing or has another shape.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    buffers = dict(model.named_buffers(remove_duplicate=False))
    aliases = aliases_of(parameters)
    for name, value in graph.initializers.items():
        if name in parameters:
            origin = _checked(name, parameters[name], aliases[name], origins)
            value.const_value = Streamed(name, origin, parameters[name].dtype)
        elif name in buffers:
            value.const_value = Streamed(name, origins.get(name) or of_tensor(name, buffers[name]), buffers[name].dtype)


def aliases_of(parameters: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Every name -> all names of the same parameter."""
    names: dict[int, list[str]] = {}
    for name, parameter in parameters.items():
        names.setdefault(id(parameter), []).append(name)
    return {name: names[id(parameter)] for name, parameter in parameters.items()}


def of_tensor(name: str, tensor: Tensor) -> Origin:
    """A tensor that is in memory anyway."""
    return Origin((name,), tensor.shape, lambda: tensor)


def mapping(model: PreTrainedModel, shards: Shards) -> dict[str, Origin]:
    """Parameter -> origin, as transformers 5 loads: every rename, then at most one conversion.

    Raises: ConversionError when a conversion needs more than the tensors it names.
    """
    from transformers import conversion_mapping, core_model_loading

    rules = conversion_mapping.get_model_conversion_mapping(model)
    renamings = [one for one in rules if isinstance(one, core_model_loading.WeightRenaming)]
    converters = [one for one in rules if isinstance(one, core_model_loading.WeightConverter)]
    by_pattern = {pattern: one for one in converters for pattern in one.source_patterns}
    wanted = model.state_dict()
    found: dict[str, Origin] = {}
    collected: dict[str, list[tuple[str, str]]] = {}  # first target -> (source pattern, checkpoint name)
    for name in sorted(shards.handles, key=core_model_loading.dot_natural_key):
        base = (model.base_model_prefix, wanted)
        target, pattern = core_model_loading.rename_source_key(name, renamings, converters, *base)
        if target not in wanted and name in wanted:
            target, pattern = core_model_loading.rename_source_key(name, [], [], *base)
        if target in wanted and pattern is None:
            found.setdefault(target, _renamed(name, shards))
        elif target in wanted:
            collected.setdefault(target, []).append((pattern, name))
    for target, sources in collected.items():
        found |= _converted(by_pattern[sources[0][0]], target, sources, model, shards)
    return found


def _renamed(name: str, shards: Shards) -> Origin:
    return Origin((name,), shards.without_data(name).shape, lambda: shards.read(name))


def _converted(
    rule: Any, target: str, sources: list[tuple[str, str]], model: PreTrainedModel, shards: Shards
) -> dict[str, Origin]:
    """The parameters that one conversion yields; run on tensors without data to learn their names and shapes."""
    dtype = model.get_parameter_or_buffer(target).dtype

    def convert(read: Callable[[str], Tensor]) -> dict[str, Tensor]:
        one = copy.deepcopy(rule)
        for pattern, name in sources:
            one.add_tensor(target, name, pattern, lambda name=name: read(name).to(dtype))
        made = one.convert(target, model=model, config=model.config)
        return {key: value[0] if isinstance(value, list) else value for key, value in made.items()}

    order = list(rule.source_patterns)  # names in the order of what they are joined by, of each in theirs
    names = tuple(name for _, name in sorted(sources, key=lambda one: order.index(one[0])))
    try:
        made = convert(shards.without_data)
    except Exception as error:  # an operation of transformers on tensors it was not written for
        raise ConversionError(f"{names[0]} cannot be converted by itself ({type(error).__name__})") from error
    return {
        key: Origin(names, value.shape, lambda key=key: convert(shards.read)[key])  # type: ignore[misc]
        for key, value in made.items()
    }


def _checked(name: str, parameter: Tensor, aliases: list[str], origins: Origins) -> Origin:
    origin = next((origins[one] for one in aliases if one in origins), None)
    if origin is None:
        raise RequestError(f"the checkpoint has no '{name}', which its configuration asks for; is it complete?")
    if origin.shape != parameter.shape:
        raise RequestError(
            f"'{name}' is {list(origin.shape)} in the checkpoint and {list(parameter.shape)} by its configuration; "
            "they do not belong together"
        )
    return origin
