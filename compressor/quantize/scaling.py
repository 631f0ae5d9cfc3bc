"""Where a factor for each input of a product can come from at no cost: what made the input is divided by it.

    norm(h; w) @ W              ->   norm(h; w / s) @ (s W)
    (a * (h @ V)) @ W           ->   (a * (h @ (V / s))) @ (s W)
    relu(h @ V + b) @ W         ->   relu(h @ (V / s) + b / s) @ (s W)         s > 0, one number for each row of W

Found by walking back from an input that products with constant weights alone read. No node is added, and the graph
computes what it did; what a product is scaled by is for `awq.py` and `smoothquant.py` to say.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir
from torch import Tensor

from compressor.quantize.constants import constant, replace
from compressor.quantize.flow.linears import Linear

MICROSOFT = "com.microsoft"
# Weight and bias of a norm: its first output is linear in both.
NORMS = {
    ("", "LayerNormalization"): (1, 2),
    ("", "RMSNormalization"): (1,),
    ("", "SimplifiedLayerNormalization"): (1,),
    (MICROSOFT, "SimplifiedLayerNormalization"): (1,),
    (MICROSOFT, "SkipLayerNormalization"): (2, 3),
    (MICROSOFT, "SkipSimplifiedLayerNormalization"): (2,),
}


@dataclass(frozen=True)
class Divisor:
    """A constant that is divided instead of an input: along its axis lie the input's channels."""

    node: ir.Node = field(repr=False)
    at: int
    axis: int


@dataclass(frozen=True)
class Pair:
    """What makes an input, and the products that read it."""

    divisors: tuple[Divisor, ...] = field(repr=False)
    linears: tuple[Linear, ...]

    @property
    def name(self) -> str:
        """What is divided, by the name of its first constant."""
        value = self.divisors[0].node.inputs[self.divisors[0].at]
        return str(value.name) if value is not None else ""

    def scale(self, graph: ir.Graph, scale: Tensor) -> None:
        """Multiply the rows of every product by `scale` [in], and divide what makes their input by it."""
        for linear in self.linears:
            replace(graph, *linear.holder, linear.stored(linear.read() * scale[:, None].cpu()))
        for divisor in self.divisors:
            array = constant(divisor.node.inputs[divisor.at])
            assert array is not None  # held by _walk
            shape = [-1 if axis == divisor.axis else 1 for axis in range(array.ndim)]
            replace(graph, divisor.node, divisor.at, array / scale.cpu().numpy().reshape(shape))


def find_pairs(linears: Sequence[Linear]) -> list[Pair]:
    """The inputs that can be scaled, in the order of the graph."""
    groups: dict[ir.Value, list[Linear]] = {}
    for linear in linears:
        if linear.window is None:
            groups.setdefault(linear.x, []).append(linear)
    found = []
    for x, readers in groups.items():
        nodes = {linear.node for linear in readers}
        if {use.node for use in x.uses()} <= nodes and not x.is_graph_output():
            divisors = _walk(x, readers[0].shape[0])
            found += [Pair(tuple(divisors), tuple(readers))] if divisors else []
    return found


def _walk(value: ir.Value, width: int) -> list[Divisor]:
    """The constants to divide, so that `value` is; none where it cannot be done."""
    node = value.producer()
    if node is None or value is not node.outputs[0]:
        return []
    if positions := NORMS.get((node.domain, node.op_type)):
        return _norm(node, positions, width)
    step = None if node.domain else _STEPS.get(node.op_type)
    return step(node, width) if step else []


def _through(node: ir.Node, width: int) -> list[Divisor]:
    """f(x / s) = f(x) / s for s > 0."""
    return _only(node.inputs[0], width)


def _factor(node: ir.Node, width: int) -> list[Divisor]:
    """One factor is enough."""
    ways = [_vector(node, at, width) for at in (0, 1)]
    return next(filter(None, ways), []) or next(filter(None, (_only(one, width) for one in node.inputs)), [])


def _sum(node: ir.Node, width: int) -> list[Divisor]:
    """Every summand has to be divided."""
    sides = [_vector(node, at, width) or _only(node.inputs[at], width) for at in (0, 1)]
    return [*sides[0], *sides[1]] if all(sides) else []


def _only(value: ir.Value | None, width: int) -> list[Divisor]:
    """`_walk` for a value that nobody else sees."""
    alone = value is not None and len(value.uses()) == 1 and not value.is_graph_output()
    return _walk(value, width) if value is not None and alone else []


def _norm(node: ir.Node, positions: Sequence[int], width: int) -> list[Divisor]:
    axis = node.attributes.get("axis")
    if axis is not None and axis.as_int() != -1:
        return []
    given = [at for at in positions if at < len(node.inputs) and node.inputs[at] is not None]
    found = [_vector(node, at, width) for at in given]
    return [divisor for one in found for divisor in one] if found and all(found) else []


def _vector(node: ir.Node, at: int, width: int) -> list[Divisor]:
    """A constant of one number for each channel."""
    array = constant(node.inputs[at])
    whole = array is not None and array.ndim > 0 and array.size == width == array.shape[-1]
    return [Divisor(node, at, array.ndim - 1)] if array is not None and whole else []


def _product(node: ir.Node, width: int) -> list[Divisor]:
    """The columns of a product's weight, and its bias."""
    holder, at, axis = node, 1, 1
    transposed = node.attributes.get("transB")
    if transposed is not None and transposed.as_int():
        axis = 0
    producer = node.inputs[1].producer() if node.inputs[1] is not None else None
    if producer is not None:
        if producer.op_type != "Transpose" or len(producer.outputs[0].uses()) != 1:
            return []
        holder, at, axis = producer, 0, 0
    weight = constant(holder.inputs[at])
    if weight is None or weight.ndim != 2 or weight.shape[axis] != width or _is_shared(holder.inputs[at]):
        return []
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return [Divisor(holder, at, axis)]
    bias = _vector(node, 2, width)
    return [Divisor(holder, at, axis), *bias] if bias else []


def _is_shared(weight: ir.Value | None) -> bool:
    """Whether others read a matrix too: divided for one of them, it would be stored twice."""
    return weight is not None and len(weight.uses()) > 1


_STEPS: dict[str, Callable[[ir.Node, int], list[Divisor]]] = {
    "Relu": _through,
    "LeakyRelu": _through,
    "Identity": _through,
    "Mul": _factor,
    "Add": _sum,
    "MatMul": _product,
    "Gemm": _product,
}
