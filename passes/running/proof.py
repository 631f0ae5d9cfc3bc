"""A changed model is right when a caller cannot tell it from the original.

    interface   names, types, shapes and order of inputs and outputs are equal
    weights     none that is new holds a NaN or an infinity, unless the old ones did
    outputs     integers and NaNs equal, floats within the tolerance, on inputs that are always the same

Where the original itself answers otherwise once its inputs are rounded another way, nobody can ask for more digits:
there the tolerance is a few times of what the last digit of the inputs changes, and no more than a twentieth.

The original is the model handed in and not the step before, so that small errors cannot add up unseen.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from passes.editing.constants import FIRST_IR_WITH_PRIVATE_INITIALIZERS, constant, is_finite
from passes.editing.nesting import every_graph, every_node, roots, subgraphs

Array = npt.NDArray[Any]
Outputs = Mapping[str, Array]
Probe = Callable[[ir.Model], Outputs]

# The distance from 1 to the next number of each type.
EPSILON = {
    ir.DataType.BFLOAT16: 2.0**-7,
    ir.DataType.FLOAT16: 2.0**-10,
    ir.DataType.FLOAT: 2.0**-23,
    ir.DataType.DOUBLE: 2.0**-52,
}

RANDOM = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)


SMALLEST = 2.0**-126  # what is smaller has lost digits, in float32 at least

OF_CALL = " of call "  # a probe that calls more than once writes this and a number behind an output's name


# Each layer rounds once more, as the inputs do here once; a wrong rewrite is off by more than a twentieth.
TIMES_MOVED, MOST_UNSTEADY, SHAKES = 4.0, 0.05, 2


@runtime_checkable
class Shakable(Protocol):
    """A probe that can be asked with its inputs rounded another way."""

    def shaken(self, seed: int) -> Probe: ...


class DisproofError(Exception):
    """Carries the reason why a pass is not believed."""


@dataclass(frozen=True)
class Reference:
    """What the model handed in looks like from outside, and what it answers."""

    interface: tuple[Port, ...]
    outputs: Outputs
    random_outputs: frozenset[str]
    tolerance: float
    probe: Probe | None
    original: ir.Model = field(repr=False)

    @classmethod
    def of(cls, model: ir.Model, probe: Probe | None, coarsest: ir.DataType | None = None) -> Reference:
        """`coarsest`: a type that the changed model may compute in, where it is coarser than the model's own."""
        outputs = probe(model) if probe else {}
        return cls(_interface(model), outputs, _random_outputs(model), _tolerance(model, coarsest), probe, model)

    def compare(self, model: ir.Model) -> float | None:
        """The worst difference of an output; raises where the model is not the same to its caller."""
        for was, became in itertools.zip_longest(self.interface, _interface(model)):
            _require(_is_kept(was, became), f"the interface changed: '{was}' became '{became}'")
        if self.probe is None:
            return None
        outputs = self.probe(model)
        _require(outputs.keys() == self.outputs.keys(), f"the outputs are now {', '.join(outputs)}")
        return max((self._difference(name, outputs[name]) for name in self.outputs), default=None)

    def _difference(self, name: str, output: Array) -> float:
        expected = self.outputs[name]
        was, became = (f"{array.dtype}{list(array.shape)}" for array in (expected, output))
        _require(was == became, f"'{name}' was {was} and is {became}")
        if name.partition(OF_CALL)[0] in self.random_outputs:  # drawn anew at every run: there is no value to compare
            return 0.0
        difference = _relative_difference(expected, output)
        allowed = self.tolerance if difference <= self.tolerance else max(self.tolerance, self._unsteady(name))
        limit = f"and {allowed:.1e} is allowed"
        _require(difference <= allowed, f"'{name}' differs by {difference:.1e} of its largest value, {limit}")
        return difference

    def _unsteady(self, name: str) -> float:
        """How far the original's own answer moves with the last digits of its inputs, several times."""
        moved = (_relative_difference(self.outputs[name], other[name]) for other in self._shaken)
        return min(MOST_UNSTEADY, TIMES_MOVED * max(moved, default=0.0))

    @functools.cached_property
    def _shaken(self) -> tuple[Outputs, ...]:
        if not isinstance(self.probe, Shakable):
            return ()
        found = (self.probe.shaken(seed)(self.original) for seed in range(SHAKES))
        return tuple(one for one in found if one.keys() == self.outputs.keys())


def _relative_difference(expected: Array, output: Array) -> float:
    """Largest |difference| over largest |expected|; infinite where integers, NaNs or infinities do not match."""
    if expected.dtype.kind not in "fV":  # V: bfloat16 as numpy sees it
        return 0.0 if np.array_equal(expected, output) else math.inf
    a, b = expected.astype(np.float64), output.astype(np.float64)
    finite = np.isfinite(a)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return math.inf
    a, b = a[finite], b[finite]
    worst, largest = (float(np.abs(array).max(initial=0.0)) for array in (a - b, a))
    return worst / max(largest, SMALLEST)


def _tolerance(model: ir.Model, coarsest: ir.DataType | None) -> float:
    """Half the digits of the coarsest float type in the model: sqrt(epsilon).

    A weight that was folded anew moves every product by an epsilon; sums and layers carry that some hundred epsilons
    far, which is well below. A rewrite that is wrong is off by the size of the output, which is far above.
    """
    values = (value for root in roots(model) for node in every_node(root) for value in node.outputs)
    types = {value.dtype for value in (*model.graph.inputs, *values)} | {tensor.dtype for tensor in weights(model)}
    types |= {coarsest}
    return math.sqrt(max((EPSILON[dtype] for dtype in types if dtype in EPSILON), default=EPSILON[ir.DataType.FLOAT]))


def _random_outputs(model: ir.Model) -> frozenset[str]:
    """The graph outputs that depend on an unseeded draw, directly or through what a subgraph captures."""
    drawn: set[ir.Value | None] = set()
    for node in model.graph:
        inner = [node, *(n for subgraph in subgraphs(node) for n in every_node(subgraph))]
        if any(draws(n) or not drawn.isdisjoint(n.inputs) for n in inner):
            drawn.update(node.outputs)
    return frozenset(value.name or "" for value in model.graph.outputs if value in drawn)


def draws(node: ir.Node) -> bool:
    """Whether it answers anew at every run: a draw without a seed, or Dropout that is told to train."""
    if node.op_type == "Dropout" and len(node.inputs) > 2 and node.inputs[2] is not None:
        training = constant(node.inputs[2])
        return training is None or bool(training.numpy().any())
    return node.op_type in RANDOM and "seed" not in node.attributes


class Port(NamedTuple):
    """An input or output as a caller sees it."""

    role: str
    name: str | None
    type: str
    shape: str
    default: str

    @classmethod
    def of(cls, role: str, value: ir.Value) -> Port:
        default = " with a default" if role == "input" and value.is_initializer() else ""
        dtype, shape = ("" if one is None else str(one) for one in (value.type, value.shape))
        return cls(role, value.name, dtype, shape, default)

    def __str__(self) -> str:
        return f"{self.role} {self.name}: {self.type}{self.shape}{self.default}"


def _is_kept(was: Port | None, became: Port | None) -> bool:
    """A type that the file leaves unsaid, and a runtime infers, may be written down."""
    if was is None or became is None:
        return was is became
    return was == (became if was.type else became._replace(type=""))


def _interface(model: ir.Model) -> tuple[Port, ...]:
    # Before IR version 4 every weight had to be listed: there it is nobody's choice, and from 4 on it is a default.
    optional = model.ir_version >= FIRST_IR_WITH_PRIVATE_INITIALIZERS
    inputs = (Port.of("input", value) for value in model.graph.inputs if optional or not value.is_initializer())
    return (*inputs, *(Port.of("output", value) for value in model.graph.outputs))


def require_finite(after: ir.Model, before: ir.Model) -> None:
    """Reads the tensors that the pass made; the old ones, only where one of the new is not finite."""
    known = {id(tensor) for tensor in weights(before)}
    broken = [tensor for tensor in weights(after) if id(tensor) not in known and not is_finite(tensor)]
    if broken and all(is_finite(tensor) for tensor in weights(before)):
        raise DisproofError(f"the new weight '{broken[0].name}' is not finite, and all weights were")


def weights(model: ir.Model) -> Iterator[ir.TensorProtocol]:
    """Every tensor the file carries: initializers of all graphs, and the attributes of Constant and ConstantOfShape."""
    for root in roots(model):
        for graph in every_graph(root):
            yield from (value.const_value for value in graph.initializers.values() if value.const_value is not None)
            attributes = (attribute for node in graph for attribute in node.attributes.data.values())
            yield from (a.value for a in attributes if a.type is ir.AttributeType.TENSOR and not a.is_ref())


def _require(condition: bool, reason: str) -> None:
    if not condition:
        raise DisproofError(reason)
