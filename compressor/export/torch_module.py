"""A PyTorch module that a factory of yours makes, with example inputs, becomes one graph.

    torch:package.module:factory
    def factory() -> tuple[nn.Module, inputs]            inputs: a tensor, a tuple of them, or names with tensors
    def factory() -> tuple[nn.Module, inputs, axes]      axes: {"x": {0: "batch_size", 2: "frames"}}; {} for none

Without axes, the first axis of every input is free and named batch_size. The name says `torch:` because the factory's
code runs: it is looked for in the working directory and in what Python has installed, and nowhere else.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compressor import sources
from compressor.disk import digest
from compressor.errors import RequestError, in_a_line
from compressor.export.checkpoint import DTYPES
from compressor.export.exporters import Exported, of_call
from compressor.export.flat import Flat, named
from compressor.export.tracing import BATCH, Call, Input, quiet
from compressor.recipe.recipe import Export
from compressor.sources import Source

WITH_AXES = 3  # module, inputs, axes
Axes = Mapping[str, Mapping[int, str]]


@dataclass(frozen=True)
class Made:
    """What a factory made: a module in evaluation mode, examples by input, and the axes that are free."""

    module: nn.Module
    examples: Mapping[str, Tensor]
    axes: Axes


def find(name: str) -> Source:
    """A source known by the factory's file and the weights that it made. Raises: RequestError."""
    factory, made = _factory(name), make(name)
    file = Path(inspect.getsourcefile(factory) or "")
    weights = hashlib.sha256()
    for key, tensor in made.module.state_dict().items():
        weights.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        weights.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    files = {file.name: digest(file), "weights": weights.hexdigest()}
    return Source(name, file, files, sources.MODULE)


def make(name: str) -> Made:
    """Call the factory, from the same random state each time. Raises: RequestError when it does not give a module."""
    torch.manual_seed(0)
    try:
        result = _factory(name)()
    except Exception as error:
        raise RequestError(f"{name}: the factory fails: {type(error).__name__}: {in_a_line(error)}") from error
    parts = result if isinstance(result, tuple) and 1 < len(result) <= WITH_AXES else (None,)
    if not isinstance(parts[0], nn.Module):
        raise RequestError(
            f"{name}: returns {type(result).__name__}; return (module, inputs) or (module, inputs, axes)"
        )
    module = parts[0].eval()
    examples = _examples(name, module, parts[1])
    free = {one: {0: BATCH} for one, tensor in examples.items() if tensor.ndim}
    return Made(module, examples, parts[2] if len(parts) == WITH_AXES else free)


def prepare(source: Source, options: Export) -> Exported:
    """The module of a factory -> one graph."""
    return of_call(call(make(source.name), DTYPES[options.dtype]), options)


def call(made: Made, dtype: torch.dtype) -> Call:
    """The module's forward call, checked at batches and sizes beside the example's."""
    module = made.module.to(dtype)
    examples = {name: one.to(dtype) if one.is_floating_point() else one for name, one in made.examples.items()}
    flat = Flat(module, tuple(examples))
    with torch.no_grad(), quiet():
        outputs = tuple(named(module(**examples)))
    inputs = {name: _input(tensor, made.axes.get(name, {})) for name, tensor in examples.items()}
    sizes = {axis_name: made.examples[name].shape[axis] for name, free in made.axes.items() if name in examples
             for axis, axis_name in free.items()}  # fmt: skip
    # A size of 1 would be specialised, and three rows are no two.
    traced = {name: 2 if name == BATCH else max(size, 2) for name, size in sizes.items()}
    checked = {f"batch {batch}": traced | ({BATCH: batch} if BATCH in traced else {}) for batch in (1, 3)}
    if len(traced) > (BATCH in traced):
        checked["other sizes"] = {name: size + 1 for name, size in traced.items()}
    return Call(type(module).__name__, flat, inputs, outputs, traced, checked)


def _factory(name: str) -> Callable[[], Any]:
    module, colon, attribute = name.removeprefix(sources.TORCH).partition(":")
    if not (module and colon and attribute):
        raise RequestError(f"{name}: write a factory as torch:package.module:function")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise RequestError(f"{name}: {in_a_line(error)}; it is looked for from {Path.cwd()}") from None
    if not callable(found):
        raise RequestError(f"{name}: is no function")
    factory: Callable[[], Any] = found
    return factory


def _examples(name: str, module: nn.Module, given: Any) -> dict[str, Tensor]:
    """Example inputs by the names of forward's arguments."""
    parts = given if isinstance(given, Mapping) else given if isinstance(given, (tuple, list)) else (given,)
    if not isinstance(parts, Mapping):
        parts = dict(zip(inspect.signature(module.forward).parameters, parts, strict=False))
    odd = [one for one, tensor in parts.items() if not isinstance(tensor, Tensor)]
    if odd or not parts:
        raise RequestError(f"{name}: example input {odd[0] if odd else ''} is no tensor")
    return dict(parts)


def _input(example: Tensor, free: Mapping[int, str]) -> Input:
    shape = tuple(free.get(axis, size) for axis, size in enumerate(example.shape))
    return Input(shape, lambda sizes: like(example, sizes))


def like(example: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A tensor of another shape with values as the example has them: noise as wide, or whole numbers out of it."""
    if example.is_floating_point():
        wide = example.float()
        spread = float(wide.std()) if wide.numel() > 1 and float(wide.std()) > 0 else 1.0
        return (torch.randn(shape) * spread + float(wide.mean())).to(example.dtype)
    return example.flatten()[torch.randint(0, example.numel(), shape)]
