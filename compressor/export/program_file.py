"""A program that torch.export saved, `.pt2`, becomes one graph; nothing is traced again.

Its free axes have no names in the file: an axis that is the first of an input is batch_size, any other is named after
the first input that has it, `x_axis_2`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from compressor.errors import RequestError, in_a_line
from compressor.export import archive
from compressor.export.exporters import Exported, of_call
from compressor.export.flat import named
from compressor.export.torch_module import like
from compressor.export.tracing import BATCH, Call, Input, quiet, translate
from compressor.recipe.recipe import Export
from compressor.sources import Source

BATCHES, OTHERS = (1, 3), (5, 11)  # sizes to check at, as far as the program's own bounds let them


def prepare(source: Source, options: Export) -> Exported:
    """A saved program -> one graph. Raises: RequestError when it holds code or cannot be read."""
    if options.dtype != "float32":
        raise RequestError(f"{source.name}: a program has its types already; leave export.dtype out")
    path = source.folder / source.entry
    archive.refuse_code(path)
    with quiet():
        try:
            program = torch.export.load(path)
        except Exception as error:  # torch names no class for it
            raise RequestError(f"{source.name}: torch.export cannot load it: {in_a_line(error)}") from error
    one = call(program, path.stem)
    return of_call(one, options, lambda: translate(program, one, options.opset))


def call(program: torch.export.ExportedProgram, name: str) -> Call:
    """The program's forward call, checked within the bounds that it states for its axes."""
    names = program.graph_signature.user_inputs
    holders = {node.name: node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"}
    tensors = {str(one): holders[str(one)] for one in names}
    flat = _Program(program)
    symbols = _symbols(tensors)
    inputs = {one: _input(tensor, symbols) for one, tensor in tensors.items()}
    bounds = {symbols[str(symbol)]: bound for symbol, bound in program.range_constraints.items()
              if str(symbol) in symbols}  # fmt: skip
    checked = {
        f"sizes {at + 1}": {
            axis: _within((BATCHES if axis == BATCH else OTHERS)[at], bounds.get(axis)) for axis in symbols.values()
        }
        for at in (0, 1)
    }
    one = Call(name, flat, inputs, (), checked["sizes 2"], checked)
    with torch.no_grad(), quiet():
        outputs = tuple(flat.outputs(*one.sample(one.traced).values()))
    return Call(name, flat, inputs, outputs, one.traced, checked)


class _Program(nn.Module):
    """A program called with a plain list of tensors."""

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        super().__init__()
        self.wrapped = program.module(check_guards=False)
        self.spec = program.call_spec.in_spec

    def outputs(self, *tensors: Tensor) -> dict[str, Tensor]:
        positional, by_name = pytree.tree_unflatten(list(tensors), self.spec)
        return named(self.wrapped(*positional, **by_name))

    def forward(self, *tensors: Tensor) -> list[Tensor]:
        return list(self.outputs(*tensors).values())


def _symbols(tensors: dict[str, Tensor]) -> dict[str, str]:
    """Symbol of a free axis -> its name."""
    found: dict[str, str] = {}
    for name, tensor in tensors.items():
        for axis, size in enumerate(tensor.shape):
            if not isinstance(size, int):
                first = BATCH if axis == 0 and BATCH not in found.values() else f"{name}_axis_{axis}"
                found.setdefault(str(size), first)
    return found


def _input(tensor: Tensor, symbols: dict[str, str]) -> Input:
    shape = tuple(size if isinstance(size, int) else symbols[str(size)] for size in tensor.shape)
    example = torch.tensor([-1.0, 1.0]) if tensor.is_floating_point() else torch.tensor([0, 1])
    return Input(shape, lambda sizes: like(example.to(tensor.dtype), sizes))


def _within(size: int, bound: Any) -> int:
    """The size, moved into the bounds of its axis."""
    if bound is None:
        return size
    least = max(int(bound.lower), 1)
    return min(max(size, least), int(bound.upper)) if bound.upper.is_finite else max(size, least)
