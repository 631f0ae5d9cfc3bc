"""What every run would compute alike is computed once, unless the model would grow by it."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from passes.computing.evaluation import EVALUATE, SHAPE_ONLY, evaluate
from passes.editing.constants import (
    FIRST_IR_WITH_PRIVATE_INITIALIZERS,
    IR_TOO_OLD,
    add_initializer,
    constant,
    is_finite,
    release,
)
from passes.editing.edits import Edits, named
from passes.editing.naming import Names
from passes.editing.nesting import every_node
from passes.editing.refusal import Refusal
from passes.editing.replacing import become_identity
from passes.formulas.linear import LINEAR
from passes.running.single_node import NUMBERS, alone, can_stand_alone, results

Array = npt.NDArray[Any]
Compute = Callable[[], Sequence[Array]]
SHARE_OF_READ = 16  # that a result may add: the mean of a weight, which goes once the weight is standardized by it
MOST_BYTES_RUN = 1 << 28  # that a run is given: they are copied into its model
WEIGHTED = {*LINEAR, "BatchNormalization"}  # of which every input but the first may be a weight


@dataclass
class ConstantFolding(Edits, ir.passes.InPlacePass):
    """Replace a node whose inputs are constant by its result, where the result costs no more bytes than it frees.

        s = Concat(a, b); y = Reshape(x, s)
     -> y = Reshape(x, s)               s is an initializer; a and b are gone

    `max_bytes_grown`: 1 KiB holds a shape, an axis list, a norm's scalars, and no weight. So Expand of one number to
    [2048, 2048] stays a node, and so does the Transpose of a tied embedding, which would become a second copy.
    A sixteenth of what the node reads may be added too, for the mean of a weight goes with the weight.
    `max_bytes_of_weight`: a ConstantOfShape that is the weight of a product or a convolution is that weight, written
    short: written out, a BatchNormalization can go into it. The runtime does the same when it loads.
    A larger result can else only come from a weight that goes. It takes over that weight's name where it has as many
    entries, and it is computed when it is read, so that folding never holds the weights in memory.
    `run`: what a model without inputs gives, for operators that the table has no row for; None: they stay.
    Bodies of functions are left alone; inline them first.
    """

    max_bytes_grown: int = 1024
    max_bytes_of_weight: int = 1 << 26
    run: Callable[[ir.Model], Sequence[Array]] | None = None
    refusals: list[Refusal] = field(default_factory=list, init=False)
    opset: int = field(default=1, init=False)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        if model.ir_version < FIRST_IR_WITH_PRIVATE_INITIALIZERS:
            self.refusals = [Refusal(model.graph.name or "", "Graph", IR_TOO_OLD)]
            return ir.passes.PassResult(model, modified=False)
        self.edited, self.opset = [], model.opset_imports.get("", 1)
        while self._sweep(model):  # a fold may free what an earlier node was refused for
            pass
        return ir.passes.PassResult(model, bool(self.edited))

    def _sweep(self, model: ir.Model) -> bool:
        self.refusals = []
        return any([self._fold(node, model.graph) for node in list(every_node(model.graph))])

    def _fold(self, node: ir.Node, root: ir.Graph) -> bool:
        compute = self._computation(node)
        if compute is None or not self.may_edit:
            return False
        try:
            found = compute()
        except (TypeError, ValueError, IndexError, ArithmeticError) as error:
            return self._refuse(node, f"cannot be evaluated: {error}")
        reason = self._why_it_stays(node, found)
        if reason:
            return self._refuse(node, reason)
        name, large = named(node), sum(one.nbytes for one in found) > self.max_bytes_grown
        tensors = [_lazy_tensor(compute, place, one) if large else _tensor(one) for place, one in enumerate(found)]
        _replace(node, tensors, root, inherit_name=large)
        return self.edit(name)

    def _computation(self, node: ir.Node) -> Compute | None:
        """What gives the results that somebody reads, bound to tensors and not to the graph; None: only a run can tell.

        By the table; by the runtime where that has no row, or leaves these inputs to it.
        """
        if not results(node):
            return None
        read = _stand_in if node.op_type in SHAPE_ONLY else constant
        tensors = [read(value) for value in node.inputs]
        for value, tensor in zip(node.inputs, tensors, strict=True):
            if value is not None and (tensor is None or tensor.dtype == ir.DataType.STRING):
                return None
        by_table = _by_table(node, tensors)
        if self.run is None or not _is_for_the_runtime(node, tensors):
            return by_table
        wanted = [node.outputs.index(value) for value in results(node)]  # a node that was folded has readers no more
        by_run = functools.partial(_run, self.run, node, tensors, wanted, self.opset)
        return by_run if by_table is None else functools.partial(_first_that_tells, by_table, by_run)

    def _refuse(self, node: ir.Node, reason: str) -> bool:
        self.refusals.append(Refusal.of(node, reason))
        return False

    def _why_it_stays(self, node: ir.Node, found: Sequence[Array]) -> str | None:
        nbytes = 0
        for value, result in zip(results(node), found, strict=True):
            dtype = ir.DataType.from_numpy(result.dtype)
            if value.dtype not in (None, dtype):
                return f"evaluates to {dtype}, and the model declares {value.dtype}"
            nbytes += math.ceil(result.size * dtype.itemsize)
        if nbytes > self.max_bytes_grown:  # else there is nothing to count
            grown = nbytes - sum(self._credit(value, tensor) for value, tensor in _constants(node).items())
            read = sum(tensor.nbytes for tensor in _constants(node).values())
            grown_at_most = max(self.max_bytes_grown, read // SHARE_OF_READ)
            allowed = self.max_bytes_of_weight if _is_weight(node) else grown_at_most
            if grown > allowed:
                return f"the model would grow by {grown} bytes, more than the {allowed} allowed"
        finite = all(is_finite(ir.Tensor(result)) for result in found)
        if not finite and all(map(is_finite, _constants(node).values())):
            return "the result is not finite, though all of its inputs are"
        return None

    def _credit(self, value: ir.Value, tensor: ir.TensorProtocol) -> int:
        """The bytes that go with one reader of a constant: its share, where all readers can be folded, else none.

        The gates of an LSTM are slices of one weight; each alone would be a copy, and together they replace it.
        """
        readers = value.consumers()
        if value.is_graph_output() or any(self._computation(reader) is None for reader in readers):
            return 0
        return tensor.nbytes // len(readers)


def _is_for_the_runtime(node: ir.Node, tensors: Sequence[ir.TensorProtocol | None]) -> bool:
    given = [tensor for tensor in tensors if tensor is not None]
    numbers = all(tensor.dtype in NUMBERS for tensor in given)
    return bool(given) and numbers and sum(one.nbytes for one in given) <= MOST_BYTES_RUN and can_stand_alone(node)


def _run(
    run: Callable[[ir.Model], Sequence[Array]],
    node: ir.Node,
    tensors: Sequence[ir.TensorProtocol | None],
    read: Sequence[int],
    opset: int,
) -> Sequence[Array]:
    return run(alone(node, tensors, read, opset))


def _by_table(node: ir.Node, tensors: list[ir.TensorProtocol | None]) -> Compute | None:
    if node.domain != "" or node.op_type not in EVALUATE or len(node.outputs) != 1:
        return None
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    return functools.partial(_compute, node.op_type, tensors, attributes)


def _compute(op_type: str, tensors: list[ir.TensorProtocol | None], attributes: dict[str, Any]) -> list[Array]:
    return [evaluate(op_type, [None if tensor is None else tensor.numpy() for tensor in tensors], attributes)]


def _first_that_tells(by_table: Compute, by_run: Compute) -> Sequence[Array]:
    """A TypeError says that the table does not know this form of the operator."""
    try:
        return by_table()
    except TypeError:
        return by_run()


def _stand_in(value: ir.Value | None) -> ir.TensorProtocol | None:
    """A tensor of the value's shape that takes one byte, where every dimension is a number; some files say -1."""
    if value is None or value.shape is None or not all(isinstance(size, int) and size >= 0 for size in value.shape):
        return None
    return ir.Tensor(np.broadcast_to(np.uint8(0), value.shape.numpy()))


def _is_weight(node: ir.Node) -> bool:
    """One number for all entries, that a linear operator or a BatchNormalization behind it computes with."""
    uses = node.outputs[0].uses() if node.op_type == "ConstantOfShape" else ()
    return bool(uses) and all(reader.op_type in WEIGHTED and reader.domain == "" and place for reader, place in uses)


def _constants(node: ir.Node) -> dict[ir.Value, ir.TensorProtocol]:
    """The constants a node reads, each once."""
    found = ((value, constant(value)) for value in node.inputs)
    return {value: tensor for value, tensor in found if value is not None and tensor is not None}


def _tensor(result: Array) -> ir.TensorProtocol:
    return ir.Tensor(np.array(result, order="C"))  # a copy: the result may be a view of a weight


def _lazy_tensor(compute: Compute, place: int, result: Array) -> ir.TensorProtocol:
    dtype = ir.DataType.from_numpy(result.dtype)
    return ir.LazyTensor(lambda: _tensor(compute()[place]), dtype, ir.Shape(result.shape))


def _replace(node: ir.Node, tensors: Sequence[ir.TensorProtocol], root: ir.Graph, inherit_name: bool) -> None:
    """Put each tensor where a result was read; the node goes, and so do the constants that only it read."""
    graph, outputs, constants = node.graph, results(node), _constants(node)
    assert graph is not None, "the traversal yields nodes of a graph"
    if any(output.is_graph_output() for output in outputs):  # an initializer cannot bear its name; constant_outputs.py
        (output,), (tensor,) = outputs, tensors
        become_identity(node, add_initializer(graph, Names(root).fresh(f"{output.name}_folded"), tensor))
        return
    readers = [output.uses() for output in outputs]
    for reader, index in itertools.chain(*readers):
        reader.replace_input_with(index, None)
    graph.remove(node, safe=True)
    weights = [value for value in constants if value.is_initializer() and value.graph is graph]
    gone = {value for value in constants if release(value)}
    heirs = [weight for weight in weights if weight in gone and inherit_name and len(outputs) == 1]
    for output, tensor, uses in zip(outputs, tensors, readers, strict=True):
        name = next((heir.name for heir in heirs if constants[heir].size == tensor.size), output.name)
        folded = add_initializer(graph, name or "", tensor)
        for reader, index in uses:
            reader.replace_input_with(index, folded)
