"""What every run would compute alike is computed once, unless the model would grow by it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from passes.constants import (
    FIRST_IR_WITH_PRIVATE_INITIALIZERS,
    IR_TOO_OLD,
    add_initializer,
    constant,
    fresh_name,
    is_finite,
    release,
)
from passes.edits import Edits, named
from passes.evaluation import EVALUATE, SHAPE_ONLY, evaluate
from passes.linear import LINEAR
from passes.local import become_identity
from passes.nesting import every_node
from passes.refusal import Refusal

Array = npt.NDArray[Any]
WEIGHTED = {*LINEAR, "BatchNormalization"}  # of which every input but the first may be a weight


@dataclass
class ConstantFolding(Edits, ir.passes.InPlacePass):
    """Replace a node whose inputs are constant by its result, where the result costs no more bytes than it frees.

        s = Concat(a, b); y = Reshape(x, s)
     -> y = Reshape(x, s)               s is an initializer; a and b are gone

    `max_bytes_grown`: 1 KiB holds a shape, an axis list, a norm's scalars, and no weight. So Expand of one number to
    [2048, 2048] stays a node, and so does the Transpose of a tied embedding, which would become a second copy.
    `max_bytes_of_weight`: a ConstantOfShape that is the weight of a product or a convolution is that weight, written
    short: written out, a BatchNormalization can go into it. The runtime does the same when it loads.
    A larger result can else only come from a weight that goes. It takes over that weight's name where it has as many
    entries, and it is computed when it is read, so that folding never holds the weights in memory.
    Bodies of functions are left alone; inline them first.
    """

    max_bytes_grown: int = 1024
    max_bytes_of_weight: int = 1 << 26
    refusals: list[Refusal] = field(default_factory=list, init=False)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        if model.ir_version < FIRST_IR_WITH_PRIVATE_INITIALIZERS:
            self.refusals = [Refusal(model.graph.name or "", "Graph", IR_TOO_OLD)]
            return ir.passes.PassResult(model, modified=False)
        self.edited = []
        while self._sweep(model):  # a fold may free what an earlier node was refused for
            pass
        return ir.passes.PassResult(model, bool(self.edited))

    def _sweep(self, model: ir.Model) -> bool:
        self.refusals = []
        return any([self._fold(node, model.graph) for node in list(every_node(model.graph))])

    def _fold(self, node: ir.Node, root: ir.Graph) -> bool:
        compute = _computation(node)
        if compute is None or not self.may_edit:
            return False
        try:
            result = compute()
        except (TypeError, ValueError, IndexError, ArithmeticError) as error:
            return self._refuse(node, f"cannot be evaluated: {error}")
        reason = self._why_it_stays(node, result)
        if reason:
            return self._refuse(node, reason)
        name, large = named(node), result.nbytes > self.max_bytes_grown
        _replace(node, _lazy_tensor(compute, result) if large else _tensor(result), root, inherit_name=large)
        return self.edit(name)

    def _refuse(self, node: ir.Node, reason: str) -> bool:
        self.refusals.append(Refusal.of(node, reason))
        return False

    def _why_it_stays(self, node: ir.Node, result: Array) -> str | None:
        dtype, declared = ir.DataType.from_numpy(result.dtype), node.outputs[0].dtype
        if declared not in (None, dtype):
            return f"evaluates to {dtype}, and the model declares {declared}"
        nbytes = math.ceil(result.size * dtype.itemsize)
        if nbytes > self.max_bytes_grown:  # else there is nothing to count
            grown = nbytes - sum(_credit(value, tensor) for value, tensor in _constants(node).items())
            allowed = self.max_bytes_of_weight if _is_weight(node) else self.max_bytes_grown
            if grown > allowed:
                return f"the model would grow by {grown} bytes, more than the {allowed} allowed"
        if not is_finite(ir.Tensor(result)) and all(map(is_finite, _constants(node).values())):
            return "the result is not finite, though all of its inputs are"
        return None


def _computation(node: ir.Node) -> Callable[[], Array] | None:
    """What gives the node's result, bound to tensors and not to the graph; None where only a run can tell."""
    if node.domain != "" or node.op_type not in EVALUATE or len(node.outputs) != 1:
        return None
    read = _stand_in if node.op_type in SHAPE_ONLY else constant
    tensors = [read(value) for value in node.inputs]
    for value, tensor in zip(node.inputs, tensors, strict=True):
        if value is not None and (tensor is None or tensor.dtype == ir.DataType.STRING):
            return None
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    return functools.partial(_compute, node.op_type, tensors, attributes)


def _compute(op_type: str, tensors: list[ir.TensorProtocol | None], attributes: dict[str, Any]) -> Array:
    return evaluate(op_type, [None if tensor is None else tensor.numpy() for tensor in tensors], attributes)


def _stand_in(value: ir.Value | None) -> ir.TensorProtocol | None:
    """A tensor of the value's shape that takes one byte, where every dimension is a number; some files say -1."""
    if value is None or value.shape is None or not all(isinstance(size, int) and size >= 0 for size in value.shape):
        return None
    return ir.Tensor(np.broadcast_to(np.uint8(0), value.shape.numpy()))


def _is_weight(node: ir.Node) -> bool:
    """One number for all entries, that a linear operator or a BatchNormalization behind it computes with."""
    uses = node.outputs[0].uses() if node.op_type == "ConstantOfShape" else ()
    return bool(uses) and all(reader.op_type in WEIGHTED and reader.domain == "" and place for reader, place in uses)


def _credit(value: ir.Value, tensor: ir.TensorProtocol) -> int:
    """The bytes that go with one reader of a constant: its share, where all readers can be folded, else none.

    The gates of an LSTM are slices of one weight; each alone would be a copy, and together they replace it.
    """
    readers = value.consumers()
    if value.is_graph_output() or any(_computation(reader) is None for reader in readers):
        return 0
    return tensor.nbytes // len(readers)


def _constants(node: ir.Node) -> dict[ir.Value, ir.TensorProtocol]:
    """The constants a node reads, each once."""
    found = ((value, constant(value)) for value in node.inputs)
    return {value: tensor for value, tensor in found if value is not None and tensor is not None}


def _tensor(result: Array) -> ir.TensorProtocol:
    return ir.Tensor(np.array(result, order="C"))  # a copy: the result may be a view of a weight


def _lazy_tensor(compute: Callable[[], Array], result: Array) -> ir.TensorProtocol:
    dtype = ir.DataType.from_numpy(result.dtype)
    return ir.LazyTensor(lambda: _tensor(compute()), dtype, ir.Shape(result.shape))


def _replace(node: ir.Node, tensor: ir.TensorProtocol, root: ir.Graph, inherit_name: bool) -> None:
    """Put `tensor` where the node's output was read; the node goes, and so do the constants that only it read."""
    graph, output, constants = node.graph, node.outputs[0], _constants(node)
    assert graph is not None, "the traversal yields nodes of a graph"
    if output.is_graph_output():  # an initializer cannot bear its name here; see constant_outputs.py
        become_identity(node, add_initializer(graph, fresh_name(root, f"{output.name}_folded"), tensor))
        return
    weights = [v for v, old in constants.items() if v.is_initializer() and v.graph is graph and old.size == tensor.size]
    readers = output.uses()
    for reader, index in readers:
        reader.replace_input_with(index, None)
    graph.remove(node, safe=True)
    gone = {value for value in constants if release(value)}
    name = next((weight.name for weight in weights if inherit_name and weight in gone), output.name)
    folded = add_initializer(graph, name or "", tensor)
    for reader, index in readers:
        reader.replace_input_with(index, folded)
