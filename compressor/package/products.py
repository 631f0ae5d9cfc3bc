"""A linear's node makes way for other nodes that compute the same product; the graph around it stays as it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import IO, Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from compressor import disk
from compressor.graph.editing import add_constant, drop_unread, take_over
from compressor.quantize.flow.linears import Linear


def replace(model: ir.Model, linear: Linear, nodes: Sequence[ir.Node]) -> None:
    """Put `nodes`, whose last one yields x @ W, where the linear stands, its bias behind them, its weight away."""
    before, product = linear.node.inputs[1], nodes[-1].outputs[0]
    product.type, product.shape = linear.y.type, linear.y.shape
    biased = [] if linear.bias is None else [ir.node("Add", [product, linear.bias])]
    take_over(model.graph, linear.node, [*nodes, *biased])
    drop_unread(model.graph, before)


def input_of(linear: Linear) -> ir.Value | None:
    """What the linear reads now: `linear.x`, or what has taken its place when that was a product itself."""
    return linear.node.inputs[0]


def initializer(model: ir.Model, name: str, array: NDArray[Any]) -> ir.Value:
    """A new constant of the graph."""
    return add_constant(model.graph, ir.Tensor(array, name=name))


def lazy_initializer(
    model: ir.Model, name: str, compute: Callable[[], NDArray[Any]], dtype: np.dtype[Any], shape: Sequence[int]
) -> ir.Value:
    """A new constant that is computed whenever it is read."""
    return add_constant(model.graph, _Computed(compute, ir.DataType.from_numpy(dtype), ir.Shape(shape), name))


class _Computed(ir.LazyTensor):
    """Computed whenever it is read, written a piece at a time."""

    def __init__(self, compute: Callable[[], NDArray[Any]], dtype: ir.DataType, shape: ir.Shape, name: str) -> None:
        super().__init__(lambda: ir.Tensor(compute()), dtype, shape, name=name)

    def tofile(self, file: IO[bytes]) -> None:
        disk.write(file, self.numpy().astype(self.dtype.numpy().newbyteorder("<"), copy=False))
