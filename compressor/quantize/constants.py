"""Constants of a graph: read, and given another content."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from compressor.graph.editing import add_constant
from compressor.quantize.flow.linears import FLOATS


def constant(value: ir.Value | None) -> NDArray[Any] | None:
    """A float initializer that nobody can override."""
    if value is None or value.const_value is None or not value.is_initializer() or value.is_graph_input():
        return None
    return np.asarray(value.const_value.numpy()) if value.const_value.dtype in FLOATS else None


def replace(graph: ir.Graph, node: ir.Node, at: int, array: NDArray[Any]) -> None:
    """Give a node's constant another content, in its type; where others read it too, the node gets one of its own."""
    value = node.inputs[at]
    assert value is not None and value.const_value is not None  # noqa: PT018  what `constant` has seen
    content = np.ascontiguousarray(array.astype(value.const_value.dtype.numpy()))
    if all(use.node is node for use in value.uses()):
        value.const_value = ir.Tensor(content, name=value.name)
        return
    tensor = ir.Tensor(content, name=f"{value.name}.{node.outputs[0].name}")
    node.replace_input_with(at, add_constant(graph, tensor))
