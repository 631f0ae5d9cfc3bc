"""A torch module and the shape of its inputs become one graph whose free axes have names.

    Call(module, {"input_ids": Input(("batch_size", "sequence_length"), tokens)}, ("logits",))
    -> input_ids [batch_size, sequence_length] -> logits [batch_size, sequence_length, 99]

torch.export traces once, every free axis above 1 (a 1 would be specialised); torch.onnx translates without optimizing:
its optimizer unties weights and drops their names, and folding is the work of our passes.
"""

from __future__ import annotations

import contextlib
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common_passes
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from compressor.errors import MachineError, RequestError, in_a_line
from compressor.export import overflow, promotion, provenance
from compressor.export.proof import Case, same_call
from compressor.graph.decoder import Feeds

T = TypeVar("T")
BATCH, SEQUENCE = "batch_size", "sequence_length"
IR_VERSION = 10  # the newest that ONNX Runtime since 1.20 and TensorRT 10 read
FIRST_OPSET_WITH_ATTENTION = 23
WRAPPED = "wrapped"  # the attribute of a Call's module that holds the model itself
UNSUPPORTED = re.compile(r"No ONNX function found for <OpOverload\(op='([\w.]+)'")
SUM = re.compile(r"[\w +*]+")  # an axis that a reader can still read: `past_sequence_length + sequence_length`


@dataclass(frozen=True)
class Input:
    """One input of a graph: its axes, free where they are named, and how a sample of it is made."""

    shape: tuple[int | str, ...]
    fill: Callable[[tuple[int, ...]], Tensor]

    def sample(self, sizes: Mapping[str, int]) -> Tensor:
        return self.fill(tuple(sizes[size] if isinstance(size, str) else size for size in self.shape))

    @property
    def free(self) -> dict[int, str]:
        return {axis: size for axis, size in enumerate(self.shape) if isinstance(size, str)}


@dataclass(frozen=True)
class Call:
    """One forward call: the module takes the inputs in their order and returns the outputs in theirs."""

    name: str
    module: nn.Module
    inputs: Mapping[str, Input]
    outputs: tuple[str, ...]
    traced: Mapping[str, int]  # the size of each free axis while tracing
    checked: Mapping[str, Mapping[str, int]]  # case -> sizes at which torch and the graph are compared
    lacking: frozenset[str] = frozenset()  # weights that hold random numbers and must reach no output
    remedy: str = "take another checkpoint"  # where they do
    answering: nn.Module | None = None  # computes in float32 what torch says, where the module has no values

    def sample(self, sizes: Mapping[str, int]) -> dict[str, Tensor]:
        """Inputs of these sizes, the same for each call."""
        torch.manual_seed(0)
        return {name: one.sample(sizes) for name, one in self.inputs.items()}

    def answer(self, feeds: Feeds) -> dict[str, NDArray[np.generic]]:
        """What torch says to the graph's inputs, by output."""
        with torch.no_grad(), quiet():
            results = self.torch_side(*(self.as_torch(array) for array in feeds.values()))
        return {name: array(tensor) for name, tensor in zip(self.outputs, results, strict=True)}

    @property
    def torch_side(self) -> nn.Module:
        return self.module if self.answering is None else self.answering

    def cases(self) -> Iterator[Case]:
        """torch and the graph on equal inputs, at the sizes to check."""
        for name, sizes in self.checked.items():
            feeds = {one: array(tensor) for one, tensor in self.sample(sizes).items()}
            yield same_call(name, feeds, self.answer)

    def as_torch(self, given: NDArray[np.generic]) -> Tensor:
        """An input in the type that torch's side computes in."""
        tensor = torch.from_numpy(given)
        own = next((one.dtype for one in self.module.parameters() if one.is_floating_point()), tensor.dtype)
        wanted = own if self.answering is None else torch.float32
        return tensor.to(wanted) if tensor.is_floating_point() else tensor


def array(tensor: Tensor) -> NDArray[np.generic]:
    """For numpy, which has no bfloat16: those are float32."""
    result: NDArray[np.generic] = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return result


def trace(call: Call, opset: int) -> ir.Model:
    """One graph; weights keep the names that the checkpoint gives them, and one that is tied is stored once.

    Raises: RequestError when the module is in training mode or cannot be traced, MachineError without memory.
    """
    if any(module.training for module in call.module.modules()):
        raise RequestError("the model is in training mode; call model.eval() before exporting it")
    free = tuple(dict.fromkeys(one.free, torch.export.Dim.DYNAMIC) for one in call.inputs.values())
    sample = tuple(call.sample(call.traced).values())
    with _told(call.name), torch.no_grad(), quiet(), overflow.Overflowing():
        # forward takes *tensors: one argument, a tuple of as many shapes
        program = torch.export.export(call.module, sample, dynamic_shapes=(free,), strict=False)
    return translate(program, call, opset)


def translate(program: torch.export.ExportedProgram, call: Call, opset: int) -> ir.Model:
    """A traced program in ONNX, its inputs, outputs, axes and weights named."""
    promotion.subtract_from_numbers(program)
    with _told(call.name), torch.no_grad(), quiet():
        onnx_program = torch.onnx.export(program, opset_version=opset, optimize=False, verbose=False)
    assert onnx_program is not None  # None only when a path is given
    model = onnx_program.model
    _name_interface(model, call)
    _name_weights(model)
    common_passes.RemoveUnusedNodesPass()(model)
    _refuse_random_weights(model, call)
    provenance.name_nodes(model, wrapper=WRAPPED)
    common_passes.ClearMetadataAndDocStringPass()(model)  # stack traces hold paths of this machine
    model.ir_version = IR_VERSION
    model.graph.name = call.name
    model.producer_name, model.producer_version = "compress", None
    return model


def _name_interface(model: ir.Model, call: Call) -> None:
    """Give inputs, outputs and every free axis of the graph their names."""
    symbols: dict[str, str] = {}
    for value, (name, one) in zip(model.graph.inputs, call.inputs.items(), strict=True):
        assert value.shape is not None  # torch.export states every shape
        value.name = name
        symbols |= {str(value.shape[axis]): axis_name for axis, axis_name in one.free.items()}
    for value, name in zip(model.graph.outputs, call.outputs, strict=True):
        value.name = name
    for value in _values(model):
        if value.shape is not None:
            value.shape = ir.Shape([size if isinstance(size, int) else _named(size, symbols) for size in value.shape])


def _named(size: ir.SymbolicDim, symbols: dict[str, str]) -> str | None:
    """An axis by its names: `s15 + s70` -> the name it was given, or its terms' names; None for what nobody reads."""
    text = str(size)
    named = symbols.get(text) or re.sub(r"s\d+", lambda found: symbols.get(found[0], found[0]), text)
    return named if SUM.fullmatch(named) else None


def _values(model: ir.Model) -> Iterator[ir.Value]:
    yield from model.graph.inputs
    for node in model.graph:
        yield from node.outputs


def _name_weights(model: ir.Model) -> None:
    """Weights carry the checkpoint's names: `wrapped.model.layers.0...` -> `model.layers.0...`."""
    for value in list(model.graph.initializers.values()):
        if value.name and value.name.startswith(f"{WRAPPED}."):
            value.name = value.name.removeprefix(f"{WRAPPED}.")


def _refuse_random_weights(model: ir.Model, call: Call) -> None:
    if random := sorted(call.lacking & model.graph.initializers.keys()):
        more = f" and {len(random) - 1} more" if len(random) > 1 else ""
        raise RequestError(f"the checkpoint lacks {random[0]}{more}, which {call.name} needs; {call.remedy}")


@contextlib.contextmanager
def _told(name: str) -> Iterator[None]:
    """What torch cannot do with a model is told in one line."""
    try:
        yield
    except MemoryError as error:
        raise MachineError(f"not enough memory to trace {name}: {in_a_line(error)}") from error
    except Exception as error:  # torch.export and torch.onnx have no common exception class
        unsupported = UNSUPPORTED.search(str(error))
        if unsupported:
            raise RequestError(
                f"{name} uses {unsupported[1]}, which has no form in ONNX; change that part of it"
            ) from error
        raise RequestError(f"{name} cannot be traced: {in_a_line(error)}") from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """torch and transformers talk while they trace; what matters reaches the user as our own errors."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
        transformers_logging.set_verbosity(level)
