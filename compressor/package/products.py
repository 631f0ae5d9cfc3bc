"""A linear's node makes way for other nodes that compute the same product; the graph around it stays as it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import IO, Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from compressor import disk
from compressor.quantize.constants import drop_unread
from compressor.quantize.flow.linears import Linear


def replace(model: ir.Model, linear: Linear, nodes: Sequence[ir.Node]) -> None:
    """Put `nodes`, whose last one yields x @ W, where the linear stands, its bias behind them, its weight away."""
    graph, y, before = model.graph, linear.y, linear.node.inputs[1]
    graph.insert_before(linear.node, nodes)
    product = _of_type(nodes[-1].outputs[0], y)
    if linear.bias is not None:
        added = ir.node("Add", [product, linear.bias])
        graph.insert_before(linear.node, added)
        product = _of_type(added.outputs[0], y)
    name = y.name
    ir.convenience.replace_all_uses_with(y, product, replace_graph_outputs=True)
    graph.remove(linear.node, safe=True)
    product.name = name
    drop_unread(graph, before)


def input_of(linear: Linear) -> ir.Value | None:
    """What the linear reads now: `linear.x`, or what has taken its place when that was a product itself."""
    return linear.node.inputs[0]


def initializer(model: ir.Model, name: str, array: NDArray[Any]) -> ir.Value:
    """A new constant of the graph."""
    return _registered(model, ir.Tensor(array, name=name))


def lazy_initializer(
    model: ir.Model, name: str, compute: Callable[[], NDArray[Any]], dtype: np.dtype[Any], shape: Sequence[int]
) -> ir.Value:
    """A new constant that is computed whenever it is read."""
    return _registered(model, _Computed(compute, ir.DataType.from_numpy(dtype), ir.Shape(shape), name))


class _Computed(ir.LazyTensor):
    """Computed whenever it is read, written a piece at a time."""

    def __init__(self, compute: Callable[[], NDArray[Any]], dtype: ir.DataType, shape: ir.Shape, name: str) -> None:
        super().__init__(lambda: ir.Tensor(compute()), dtype, shape, name=name)

    def tofile(self, file: IO[bytes]) -> None:
        disk.write(file, self.numpy().astype(self.dtype.numpy().newbyteorder("<"), copy=False))


def _registered(model: ir.Model, constant: ir.TensorProtocol) -> ir.Value:
    of_type, shape = ir.TensorType(constant.dtype), ir.Shape(constant.shape.numpy())
    value = ir.Value(name=constant.name, type=of_type, shape=shape, const_value=constant)
    model.graph.register_initializer(value)
    return value


def _of_type(value: ir.Value, like: ir.Value) -> ir.Value:
    value.type, value.shape = like.type, like.shape
    return value
