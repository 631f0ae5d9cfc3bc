"""A constant is a value that every run of the model sees alike: what is one, how one comes, how one goes.

    initializer                     constant
    initializer and graph input     not constant: a default, which the caller may override
    output of a Constant node       constant

What a subgraph captures is read like anything else: `onnx_ir` counts its nodes among the readers.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from passes.editing.nesting import let_go

# Before IR version 4 every initializer had to be a graph input as well, so none can be added behind the interface.
FIRST_IR_WITH_PRIVATE_INITIALIZERS = 4
IR_TOO_OLD = "before IR version 4 every initializer must be a graph input, so none can be added; raise the IR version"

_DENSE = frozenset({"value", "value_float", "value_floats", "value_int", "value_ints", "value_string", "value_strings"})


def constant(value: ir.Value | None) -> ir.TensorProtocol | None:
    """The tensor `value` holds in every run, or None where a run may decide."""
    if value is None:
        return None
    if value.is_initializer():
        return None if value.is_graph_input() else value.const_value
    node = value.producer()
    if node is None or node.op_type != "Constant" or node.domain != "":
        return None
    if not _DENSE.issuperset(node.attributes):  # sparse_value; a reference to a function's attribute holds no value
        return None
    if "value" in node.attributes:  # get_const_tensor would rename it
        held: ir.TensorProtocol = node.attributes["value"].value  # as_tensor() asks whether it is one, at length
        return held
    return ir.convenience.get_const_tensor(value)


def is_finite(tensor: ir.TensorProtocol) -> bool:
    """No NaN and no infinity; types that have neither are finite without being read."""
    return not tensor.dtype.is_floating_point() or bool(np.isfinite(tensor.numpy()).all())


def add_initializer(graph: ir.Graph, name: str, tensor: ir.TensorProtocol) -> ir.Value:
    """Give `graph` a new constant. `name` is free: an initializer already there is never overwritten."""
    tensor.name = name
    shape = ir.Shape(tensor.shape.numpy())
    value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=shape, const_value=tensor)
    graph.register_initializer(value)  # raises where the name is taken
    return value


def release(value: ir.Value) -> bool:
    """Drop a value that nobody reads any more, with the node that made it; one that a graph's interface names stays.

    Tells whether it went: of a node of several results, all go or none.
    """
    producer, graph = value.producer(), value.graph
    if graph is None or value.uses() or value.is_graph_output() or value.is_graph_input():
        return False
    if producer is not None:
        if any(output.uses() or output.is_graph_output() for output in producer.outputs):
            return False
        let_go(producer)
        graph.remove(producer, safe=True)
    else:
        del graph.initializers[value.name or ""]
    return True
