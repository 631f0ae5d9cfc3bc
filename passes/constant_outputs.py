"""An output that is the same in every run is an initializer, and no node writes it."""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx_ir as ir

from passes.editing.constants import FIRST_IR_WITH_PRIVATE_INITIALIZERS, add_initializer, constant
from passes.editing.nesting import every_graph
from passes.editing.refusal import Refusal
from passes.editing.replacing import drop
from passes.local import producer_of

LARGEST_COPY = 1024  # bytes: a shape or a flag; a weight that others read too is not stored twice


@dataclass
class ConstantOutputs(ir.passes.InPlacePass):
    """Let a graph give an initializer where it gave a Constant, or an Identity of an initializer.

    k = Constant(); output k     ->     output k, an initializer

    The main graph, branches and bodies alike: a Loop's condition that is always true is a node of every trip.
    """

    refusals: list[Refusal] = field(default_factory=list, init=False)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        self.refusals = []
        if model.ir_version < FIRST_IR_WITH_PRIVATE_INITIALIZERS:
            return ir.passes.PassResult(model, modified=False)
        graphs = every_graph(model.graph)
        places = [(graph, place) for graph in graphs for place in range(len(graph.outputs))]
        return ir.passes.PassResult(model, any([self._pin(graph, place) for graph, place in places]))

    def _pin(self, graph: ir.Graph, place: int) -> bool:
        output = graph.outputs[place]
        node = producer_of(output, "Constant", "Identity")
        source = node.inputs[0] if node is not None and node.inputs else output
        tensor = constant(source)
        if node is None or tensor is None:
            return False
        if (
            source is not output
            and len(source.uses() if source is not None else ()) > 1
            and tensor.nbytes > LARGEST_COPY
        ):
            self.refusals.append(Refusal.of(node, f"a copy of {tensor.nbytes} bytes would be stored"))
            return False
        pinned = add_initializer(graph, str(output.name), _copied(tensor))
        pinned.type, pinned.shape = output.type, output.shape
        graph.outputs[:] = [pinned if one is output else one for one in graph.outputs]
        output.replace_all_uses_with(pinned)
        drop(node)
        return True


def _copied(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """One that can bear a name of its own."""
    if tensor.dtype == ir.DataType.STRING:
        return ir.StringTensor(tensor.numpy())
    return ir.LazyTensor(lambda: ir.Tensor(tensor.numpy(), tensor.dtype), tensor.dtype, ir.Shape(tensor.shape.numpy()))
