"""The linears of a graph: products with a constant matrix, y = x @ W (+ b), each found or left alone for a reason."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor

from compressor.quantize.flow.convolution import Window, pixels_first
from compressor.quantize.machine.memory import Scratch

FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16)  # of weights that are quantized
STACK = 3  # axes: [matrices, in, out]
SCORE_SWEEPS = ("Softmax", "Sigmoid", "Add", "Cast", "Reshape")  # between a router's product and its choice
MULTIPLYING = ("MatMul", "Gemm", "Conv", "ConvTranspose", "Einsum", "LSTM", "GRU", "RNN")
KERNELS_STAY = "a convolution, which this method, package or target leaves float"
IN_A_BRANCH = "inside an If, a Loop or a Scan"
TURNING = ("Transpose", "Identity", "Cast")  # of a constant on its way to a product

Input = tuple[ir.Value, Window | None]


@dataclass(frozen=True)
class Linear:
    """One product with a constant matrix: where it stands and how it stores W. A convolution is one of its windows.

    others: products that read the very same W in the same way, as layers do that share their weights.
    """

    name: str
    node: ir.Node = field(repr=False)
    x: ir.Value = field(repr=False)
    weight: ir.Value = field(repr=False)
    bias: ir.Value | None = field(repr=False)
    transposed: bool  # stored [out, in], a convolution's [out, channels, height, width]
    window: Window | None = None
    others: tuple[Linear, ...] = field(default=(), repr=False)

    @property
    def everywhere(self) -> tuple[Linear, ...]:
        """Every product that reads the weight, those that the data reaches first."""
        return (self, *self.others)

    @property
    def inputs(self) -> tuple[Input, ...]:
        """All data that the weight is multiplied by, each with the windows that a convolution cuts it into."""
        return tuple((one.x, one.window) for one in self.everywhere if one.is_fed)

    @property
    def is_fed(self) -> bool:
        """Whether x depends on the data; a constant, such as a table of relative positions, tells nothing of it."""
        return self.x.const_value is None

    @property
    def holder(self) -> tuple[ir.Node, int]:
        """The node that reads the constant, and where: a Transpose before the product, or the product itself."""
        between = self.node.inputs[1]
        producer = between.producer() if between is not None and between is not self.weight else None
        return (self.node, 1) if producer is None else (producer, 0)

    @property
    def y(self) -> ir.Value:
        return self.node.outputs[0]

    @property
    def dtype(self) -> np.dtype[Any]:
        """What the graph multiplies in: float32 or float16; statistics and solvers see float32."""
        assert self.weight.const_value is not None  # held by find_linears
        return self.weight.const_value.dtype.numpy()

    @property
    def shape(self) -> tuple[int, int]:
        """(in, out)"""
        assert self.weight.const_value is not None  # held by find_linears
        rows, *others = self.weight.const_value.shape.numpy()
        columns = math.prod(others)
        return (columns, rows) if self.transposed else (rows, columns)

    def read(self) -> Tensor:
        """The weight, float32 [in, out]."""
        return _tensor(self.weight).flatten(1).T if self.transposed else _tensor(self.weight)

    def stored(self, weight: Tensor) -> NDArray[np.float32]:
        """A weight [in, out] in the shape in which the graph holds it."""
        assert self.weight.const_value is not None  # held by find_linears
        laid_out = weight.T if self.transposed else weight
        return np.ascontiguousarray(laid_out.cpu().numpy()).reshape(self.weight.const_value.shape.numpy())

    def product(self, x: Tensor, weight: Tensor, scratch: Scratch) -> Tensor:
        """x by weight [in, out] and the bias, float32 on the CPU, in a room of the scratch until it is taken again."""
        y = self._multiplied(x, weight, scratch)
        if y.dtype != torch.float32 or y.is_cuda:
            y = scratch.take(self.name, tuple(y.shape), torch.float32).copy_(y)
        bias = self.read_bias()
        return y if bias is None else y.add_(bias if self.window is None else pixels_first(bias))

    def _multiplied(self, x: Tensor, weight: Tensor, scratch: Scratch) -> Tensor:
        if self.window is not None:
            return self.window.convolve(x, weight)
        if x.is_cuda:
            return x @ weight
        tokens = x.flatten(0, -2)
        name = self.name if x.dtype == torch.float32 else "product"
        y = scratch.take(name, (len(tokens), weight.shape[1]), x.dtype)
        return torch.mm(tokens, weight, out=y).view(*x.shape[:-1], -1)

    def read_bias(self) -> Tensor | None:
        """The bias that a Gemm adds, float32 [out]."""
        return None if self.bias is None else _tensor(self.bias)


def find_linears(
    model: ir.Model, exclude: Sequence[str] = (), *, convolutions: bool = False
) -> tuple[list[Linear], dict[str, str]]:
    """Linears of the main graph, one a weight, in order; and for each other constant that is multiplied the reason."""
    products: dict[ir.Value, list[Linear]] = {}
    refused: dict[str, str] = {}
    for node in model.graph.all_nodes():
        inside = node.graph is not model.graph
        linear = None if inside else as_linear(node) or (_as_convolution(node) if convolutions else None)
        for weight in _factors(node):
            if linear is None or weight is not linear.weight:
                refused.setdefault(str(weight.name), IN_A_BRANCH if inside else _unlike(node, weight, convolutions))
        if linear is not None:
            products.setdefault(linear.weight, []).append(linear)
    found = []
    for of_weight in products.values():
        first, *others = sorted(of_weight, key=lambda one: not one.is_fed)
        linear = replace(first, others=tuple(others))
        if reason := _refusal(linear, exclude):
            refused[linear.name] = reason
        else:
            found.append(linear)
    return found, refused


def in_order(model: ir.Model, linears: Sequence[Linear]) -> list[Linear]:
    """Every product of the linears, in the order of the graph."""
    position = {node: at for at, node in enumerate(model.graph)}
    return sorted((one for linear in linears for one in linear.everywhere), key=lambda one: position[one.node])


def as_linear(node: ir.Node) -> Linear | None:
    """MatMul(x, W), MatMul(x, Transpose(W)) or Gemm(x, W, b), with W a float matrix that nobody can override."""
    if node.domain or node.op_type not in ("MatMul", "Gemm") or len(node.inputs) < 2:
        return None
    x, weight = node.inputs[0], node.inputs[1]
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if x is None or weight is None:
        return None
    transposed = node.op_type == "Gemm" and bool(node.attributes.get_int("transB", 0))
    producer = weight.producer()
    if node.op_type == "MatMul" and producer is not None and producer.op_type == "Transpose":
        perm = producer.attributes.get("perm")
        weight, transposed = producer.inputs[0], True
        if weight is None or (perm is not None and list(perm.as_ints()) != [1, 0]):
            return None
    constant = weight.const_value
    if constant is None or weight.is_graph_input() or constant.dtype not in FLOATS or len(constant.shape) != 2:
        return None
    if node.op_type == "Gemm" and not _plain_gemm(node, bias):
        return None
    return Linear(str(weight.name), node, x, weight, bias, transposed)


def stacked_weight(node: ir.Node) -> tuple[ir.Value, bool] | None:
    """The weight of MatMul(x, W) or MatMul(x, Transpose(W)), W a stack of matrices, and whether it is transposed."""
    if node.domain or node.op_type != "MatMul" or node.inputs[0] is None:
        return None
    weight, transposed = node.inputs[1], False
    producer = weight.producer() if weight is not None else None
    if producer is not None and producer.op_type == "Transpose" and not producer.domain:
        perm = producer.attributes.get("perm")
        weight, transposed = producer.inputs[0], True
        if perm is None or list(perm.as_ints()) != [0, 2, 1]:
            return None
    constant = weight.const_value if weight is not None else None
    if weight is None or constant is None or weight.is_graph_input() or constant.dtype not in FLOATS:
        return None
    return (weight, transposed) if len(constant.shape) == STACK else None


def _as_convolution(node: ir.Node) -> Linear | None:
    """Conv of pictures with a float32 kernel that nobody can override."""
    if node.domain or node.op_type != "Conv" or len(node.inputs) < 2:
        return None
    x, weight, bias = (*node.inputs, None)[:3]
    constant = weight.const_value if weight is not None else None
    if x is None or weight is None or constant is None or weight.is_graph_input():
        return None
    if constant.dtype != ir.DataType.FLOAT or len(constant.shape) != 4:
        return None
    if x.const_value is not None or (bias is not None and bias.const_value is None):
        return None
    kernel = tuple(constant.shape.numpy()[2:])
    settings = (
        tuple(node.attributes.get_ints("strides", (1, 1))),
        tuple(node.attributes.get_ints("pads", (0,) * 4)),
        tuple(node.attributes.get_ints("dilations", (1, 1))),
    )
    return Linear(str(weight.name), node, x, weight, bias, True, Window(kernel, *settings))  # type: ignore[arg-type]


def _plain_gemm(node: ir.Node, bias: ir.Value | None) -> bool:
    scales = [attribute.as_float() for name in ("alpha", "beta") if (attribute := node.attributes.get(name))]
    constant_bias = bias is None or (bias.const_value is not None and len(bias.const_value.shape) == 1)
    return not node.attributes.get_int("transA", 0) and all(scale == 1 for scale in scales) and constant_bias


def _refusal(linear: Linear, exclude: Sequence[str]) -> str:
    """Why a linear keeps its weight; empty when it does not."""
    if not linear.is_fed:
        return "multiplied by constants alone"
    if named := next((one for one in exclude if one in linear.name), None):
        return f"excluded by '{named}'"
    if reason := next(filter(None, map(_unfit, linear.everywhere)), ""):
        return reason
    if readers := _other_readers(linear):
        return f"shared with {', '.join(sorted({str(node.op_type) for node in readers}))}"
    ways = {(one.transposed, one.window) for one in linear.everywhere}
    return "read in more than one way" if len(ways) > 1 else ""


def _unfit(product: Linear) -> str:
    """Why a product is not rounded, whoever else reads its weight."""
    if product.window is not None and product.node.attributes.get_int("group", 1) > 1:
        return "a convolution in groups, each with inputs of its own"
    automatic = product.node.attributes.get("auto_pad")
    if product.window is not None and automatic and automatic.as_string() not in ("NOTSET", "VALID"):
        return "a convolution whose padding is not stated"
    return "a router: rounded scores choose other experts" if _chooses(product.y) else ""


def _other_readers(linear: Linear) -> set[ir.Node]:
    """Nodes that see the weight, as it is stored or turned, and are none of its products."""
    seen = {value for one in linear.everywhere for value in (one.weight, one.node.inputs[1]) if value is not None}
    turning = {value.producer() for value in seen}
    return {use.node for value in seen for use in value.uses()} - turning - {one.node for one in linear.everywhere}


def _factors(node: ir.Node) -> list[ir.Value]:
    """The matrices, stacks and kernels that a node multiplies by and nobody can override, as the graph holds them."""
    if node.domain or node.op_type not in MULTIPLYING:
        return []
    held = [_source(value) for value in node.inputs if value is not None]
    return [one for one in held if not one.is_graph_input() and one.const_value is not None and _is_matrix(one)]


def _source(value: ir.Value) -> ir.Value:
    """What a value was before it was turned or named anew."""
    producer = value.producer()
    if producer is None or producer.op_type not in TURNING or producer.inputs[0] is None:
        return value
    return _source(producer.inputs[0])


def _is_matrix(value: ir.Value) -> bool:
    constant = value.const_value
    assert constant is not None  # held by _factors
    return constant.dtype.is_floating_point() and sum(size > 1 for size in constant.shape.numpy()) > 1


def _unlike(node: ir.Node, weight: ir.Value, convolutions: bool) -> str:
    """Why a node that multiplies by a constant is no linear, or no convolution that is rounded."""
    assert weight.const_value is not None  # held by _factors
    if stacked_weight(node):
        return "a stack of matrices that was not taken apart"
    if node.op_type == "Conv":
        return f"a convolution{_unlike_pictures(node, weight)}" if convolutions else KERNELS_STAY
    if weight.const_value.dtype not in FLOATS:
        return f"of type {weight.const_value.dtype.name.lower()}"
    left = node.inputs[0]
    if node.op_type in ("MatMul", "Gemm") and left is not None and _source(left) is weight:
        return "the left factor of a product"
    if node.op_type == "Gemm":
        return "a Gemm with transA, alpha, beta or another summand than a bias"
    return f"of {node.op_type}, in a form that is not rounded"


def _unlike_pictures(node: ir.Node, weight: ir.Value) -> str:
    """How a convolution differs from those whose kernels are rounded."""
    assert weight.const_value is not None  # held by _factors
    if weight.const_value.dtype != ir.DataType.FLOAT:
        return f" of type {weight.const_value.dtype.name.lower()}"
    if (axes := len(weight.const_value.shape) - 2) != 2:
        return f" of {axes}-dimensional data, no pictures"
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    return " with a computed bias" if bias is not None and bias.const_value is None else " in another form"


def _chooses(scores: ir.Value) -> bool:
    """Whether a TopK picks among the scores, or among what is made of them one by one."""
    readers = [use.node for use in scores.uses()]
    return any(
        node.op_type == "TopK" or (node.op_type in SCORE_SWEEPS and _chooses(node.outputs[0])) for node in readers
    )


def _tensor(value: ir.Value) -> Tensor:
    """A constant as torch sees it, in float32; of a file mapped while somebody holds it, never written back."""
    constant = value.const_value
    assert constant is not None  # held by find_linears
    if isinstance(constant, ir.ExternalTensor) and constant.size:
        dtype, shape = constant.dtype.numpy().newbyteorder("<"), constant.shape.numpy()
        mapped = np.memmap(constant.path, dtype, "c", constant.offset or 0, shape)  # torch takes no read-only memory
        return torch.from_numpy(np.require(mapped, requirements="A")).float()
    return torch.from_numpy(np.array(constant.numpy())).float()
