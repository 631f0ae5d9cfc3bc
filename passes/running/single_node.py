"""A node and the constants that it reads as a model of its own, for whoever can run one.

y = Sigmoid(k)     ->     a model without inputs that gives y
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx_ir as ir

from passes.computing.evaluation import MANY_ENTRIES
from passes.editing.nesting import subgraphs
from passes.running.proof import RANDOM

# Beside what draws: what stores a quantized weight, what another pass removes, and what is written short on purpose.
NEVER = RANDOM | {
    "Constant",
    "ConstantOfShape",
    "DequantizeLinear",
    "Dropout",
    "DynamicQuantizeLinear",
    "Expand",
    "Identity",
    "QuantizeLinear",
}
T = ir.DataType
# Types that numpy has arrays for.
NUMBERS = frozenset(
    {T.FLOAT, T.FLOAT16, T.DOUBLE, T.BOOL, T.INT8, T.INT16, T.INT32, T.INT64, T.UINT8, T.UINT16, T.UINT32, T.UINT64}
)


def results(node: ir.Node) -> list[ir.Value]:
    """The outputs that somebody reads."""
    return [value for value in node.outputs if value.uses() or value.is_graph_output()]


def can_stand_alone(node: ir.Node) -> bool:
    """A standard operator on numbers, of results that are known to be small enough to be looked at."""
    if node.domain != "" or node.op_type in NEVER or subgraphs(node) or not results(node):
        return False
    if len(node.outputs) > 1 and any(value.is_graph_output() for value in node.outputs):
        return False
    entries = 0
    for value in results(node):
        if value.dtype not in NUMBERS or value.shape is None or not value.shape.is_static():
            return False
        entries += math.prod(value.shape.numpy())
    return entries <= MANY_ENTRIES


def alone(node: ir.Node, tensors: Sequence[ir.TensorProtocol | None], read: Sequence[int], opset: int) -> ir.Model:
    """The node on these inputs; `read`: which of its outputs are wanted."""
    inputs = [None if one is None else _initializer(f"i{place}", one) for place, one in enumerate(tensors)]
    attributes = list(node.attributes.values())
    twin = ir.Node("", node.op_type, inputs, attributes, num_outputs=len(node.outputs))
    for place, value in enumerate(twin.outputs):
        value.name = f"o{place}" if node.outputs[place].name else ""
    outputs = [twin.outputs[place] for place in read]
    given = [value for value in inputs if value is not None]
    graph = ir.Graph([], outputs, nodes=[twin], initializers=given, opset_imports={"": opset}, name=node.op_type)
    return ir.Model(graph, ir_version=8)


def _initializer(name: str, tensor: ir.TensorProtocol) -> ir.Value:
    shape = ir.Shape(tensor.shape.numpy())
    copied = ir.Tensor(tensor.numpy(), name=name)
    return ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=shape, const_value=copied)
