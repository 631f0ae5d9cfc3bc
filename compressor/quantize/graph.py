"""The graph as a quantizer sees it: linears that share inputs, and the segments of plain nodes between them.

    x -> q, k, v -> [attention] -> o -> [norm] -> gate, up -> [silu, mul] -> down -> [norm] -> ...
         group 0     segment 1    1     seg. 2    group 2      segment 3      3

A linear is  y = x @ W (+ b)  with a constant W. Take all linears out and the graph falls into segments that hold no
big weight. Calibration data flows through it in one pass: a segment runs in ONNX Runtime and yields the next group's
input x; the solver rounds the group's weights; their products x @ W, with the rounded W, feed the next segment. So
every product is computed once, and each layer is calibrated on the error of the layers before it.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor

from compressor import value_types
from compressor.decoder import IDS, MASK, Feeds
from compressor.errors import RequestError
from compressor.quantize import ranks
from compressor.quantize.convolution import Window, pixels_first
from compressor.session import open_session

if TYPE_CHECKING:
    import onnxruntime as ort

# A value that needs no weight above this can be made again in every segment (masks, rotary tables), which costs less
# than keeping a [batch, 1, sequence, sequence] mask for every batch.
FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16)  # of weights that are quantized
REMADE_BELOW_BYTES = 1 << 16
STACK = 3  # axes: [matrices, in, out]
SCORE_SWEEPS = ("Softmax", "Sigmoid", "Add", "Cast", "Reshape")  # between a router's product and its choice
# Batches after which the heap is asked for what it holds without use: glibc finds no room for an aligned block in the
# hole that its like has left, and 32 batches of 512 tokens and 2048 inputs left it 75 MB larger.
FREED_EVERY = 8
# Up to here attention is faster with its scores stored than in tiles (10 ms for 24, 8 heads of 64, two cores).
PLAIN_ATTENTION_TOKENS = 1024


@dataclass(frozen=True)
class Linear:
    """One product with a constant matrix: where it stands and how it stores W. A convolution is one of its windows."""

    name: str
    node: ir.Node = field(repr=False)
    x: ir.Value = field(repr=False)
    weight: ir.Value = field(repr=False)
    bias: ir.Value | None = field(repr=False)
    transposed: bool  # stored [out, in], a convolution's [out, channels, height, width]
    window: Window | None = None

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

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        """x by weight [in, out] and the bias, float32 on the CPU."""
        y = x @ weight if self.window is None else self.window.convolve(x, weight)
        bias = self.read_bias()
        if bias is None:
            return y.float().cpu()
        return y.float().cpu() + (bias if self.window is None else pixels_first(bias))

    def read_bias(self) -> Tensor | None:
        """The bias that a Gemm adds, float32 [out]."""
        return None if self.bias is None else _tensor(self.bias)


@dataclass(frozen=True)
class Segment:
    """Plain nodes between two groups: run `model` on values from before, to get `x` and what later segments need."""

    x: ir.Value
    linears: tuple[Linear, ...]
    model: ir.Model | None = field(repr=False)  # None: x was already there
    inputs: tuple[str, ...] = field(repr=False)
    outputs: tuple[str, ...] = field(repr=False)
    last_used: frozenset[str] = field(repr=False)  # carried values that no later segment asks for

    @property
    def width(self) -> int:
        return self.linears[0].shape[0]

    @property
    def window(self) -> Window | None:
        return self.linears[0].window


def find_linears(
    model: ir.Model, exclude: Sequence[str] = (), *, convolutions: bool = False
) -> tuple[list[Linear], dict[str, str]]:
    """Linears of the main graph in order, and for each constant matrix product left alone the reason."""
    found: list[Linear] = []
    refused: dict[str, str] = {}
    for node in model.graph:
        linear = as_linear(node) or (_as_convolution(node) if convolutions else None)
        if linear is None:
            if stack := stacked_weight(node):
                refused[str(stack[0].name)] = "a stack of matrices that was not taken apart"
            continue
        if reason := _refusal(linear, exclude):
            refused[linear.name] = reason
        else:
            found.append(linear)
    return found, refused


def segments(model: ir.Model, linears: Sequence[Linear]) -> list[Segment]:
    """Cut the graph at every input that linears read, in the order of the graph; windows are inputs of their own."""
    value_types.state(model)  # a segment's inputs need theirs
    groups: dict[tuple[ir.Value, Window | None], list[Linear]] = {}
    for linear in linears:
        groups.setdefault((linear.x, linear.window), []).append(linear)
    plan = _Plan(model, [x for x, _ in groups], [tuple(group) for group in groups.values()])
    return [plan.segment(index) for index in range(len(groups))]


def product_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where matrix units multiply it (AMX, CUDA), four times as fast; float32 elsewhere.

    Calibration bears it: inputs are rounded to 8 bits of mantissa; their statistics are computed in float32.
    """
    fast = device.type == "cuda" or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if fast else torch.float32


class Flow:
    """Calibration batches on their way through the segments; of several ranks each has its share (`ranks.py`).

    for segment in segments:
        for x in flow.run(segment): ...             # float32 or bfloat16 [tokens, in], batch by batch
        flow.resume(segment, rounded_weights)       # what flows on is x @ rounded
    """

    def __init__(self, batches: Sequence[Feeds], *, dtype: torch.dtype, device: torch.device) -> None:
        batches = ranks.mine(batches)
        self._carried: list[Feeds] = [dict(batch) for batch in batches]
        self._fed = frozenset(batches[0])
        self._real = [torch.from_numpy(np.asarray(batch[MASK], bool)) if MASK in batch else None for batch in batches]
        self._x: list[Tensor] = []  # of the last segment, one a batch
        self._weights: list[tuple[Linear, Tensor]] = []
        self._dtype, self._device = dtype, device
        self._long = IDS in batches[0] and batches[0][IDS].shape[1] > PLAIN_ATTENTION_TOKENS

    def run(self, segment: Segment) -> Iterator[Tensor]:
        """Run a segment on every batch; yields its x, kept until the weights to multiply it by are known."""
        session = self._session(segment.model) if segment.model else None
        multiplied, self._x = self._x[::-1], []
        for index, values in enumerate(self._carried):
            if index % FREED_EVERY == 0:
                return_free_memory()
            if multiplied:
                values.update(self._products(multiplied.pop()))
            if session:
                values.update(self._made(session, segment, values))
            self._x.append(self._kept(torch.from_numpy(values[str(segment.x.name)])))
            for name in segment.last_used - self._fed:
                values.pop(name, None)
            values.update((name, _copied(values[name])) for name in segment.outputs if name in values)
            yield from self._inputs(segment, index)

    def again(self, segment: Segment) -> Iterator[Tensor]:
        """What `run` has yielded, once more."""
        for index in range(len(self._x)):
            yield from self._inputs(segment, index)

    def _inputs(self, segment: Segment, index: int) -> Iterable[Tensor]:
        return segment.window.unfold(self._x[index]) if segment.window else (self._tokens(index),)

    def _session(self, model: ir.Model) -> ort.InferenceSession:
        return open_session(model, "served", spinning=False, tiled=self._long, threads=ranks.threads())

    def _made(self, session: ort.InferenceSession, segment: Segment, values: Feeds) -> Feeds:
        """What a segment yields for one batch; held by nobody else, so that it can go before the next is computed."""
        try:
            made = session.run(list(segment.outputs), {name: values[name] for name in segment.inputs})
        except Exception as error:  # ONNX Runtime's own exceptions share no base class
            why = " ".join(str(error).split())[:200]
            raise RequestError(f"calibration: the graph does not run on it: {why}") from None
        return dict(zip(segment.outputs, made, strict=True))

    def _tokens(self, index: int) -> Tensor:
        """The x of a batch, [tokens, in], without those that its attention mask says are padding."""
        tokens, real = self._x[index].flatten(0, -2), self._real[index]
        if real is None or len(tokens) != real.numel() or bool(real.all()):
            return tokens
        return tokens[real.flatten().to(tokens.device)]

    def _kept(self, x: Tensor) -> Tensor:
        """A copy of a batch's x; on the CPU mapped by itself: it goes once it has been multiplied, without a hole."""
        if self._device.type != "cpu" or not x.numel():
            return x.to(self._device, self._dtype)
        room = torch.frombuffer(_mapped(x.numel() * self._dtype.itemsize), dtype=self._dtype, count=x.numel())
        return room.view(x.shape).copy_(x)

    def resume(self, segment: Segment, weights: Sequence[Tensor]) -> None:
        """Say which weights, float32 [in, out], the segment's x is multiplied by."""
        rounded = (weight.to(self._device, self._dtype) for weight in weights)
        self._weights = list(zip(segment.linears, rounded, strict=True))

    def _products(self, x: Tensor) -> Feeds:
        """y = x @ W (+ b) of each linear by name, of the graph's type, in the shape of x."""
        products = ((linear, linear.product(x, weight).numpy()) for linear, weight in self._weights)
        return {str(linear.y.name): y.astype(linear.dtype, copy=False) for linear, y in products}


class _Plan:
    """For every value the segment in which it is made, and the last one that reads it."""

    def __init__(self, model: ir.Model, xs: list[ir.Value], groups: list[tuple[Linear, ...]]) -> None:
        self._model, self._xs, self._groups = model, xs, groups
        self._group_of: dict[ir.Node | None, int] = {
            linear.node: index for index, group in enumerate(groups) for linear in group
        }
        self._made: dict[ir.Value, int] = {}
        self._remade: set[ir.Value] = set()
        self._needed = self._ancestors(xs)
        for node in model.graph:
            if node in self._needed:
                self._place(node)
        self._last = self._last_reads()

    def segment(self, index: int) -> Segment:
        x, made = self._xs[index], self._made
        nodes = [node for node in self._needed if node not in self._group_of and self._at(node) == index]
        read = {value for node in nodes for value in self._reads(node)}
        inputs = {v for v in read if v in made and (made[v] < index or v.producer() in self._group_of)}
        outputs = {v for node in nodes for v in node.outputs if v is x or self._last.get(v, -1) > index}
        fed = self._remade_inputs([v for v in read if v not in inputs]) if outputs else set()
        kept = {str(v.name) for v, last in self._last.items() if last == index}
        return Segment(
            x,
            self._groups[index],
            self._extract(inputs | fed, outputs, index) if outputs else None,
            tuple(sorted(str(v.name) for v in inputs | fed)),
            tuple(sorted(str(v.name) for v in outputs)),
            frozenset(kept),
        )

    def _place(self, node: ir.Node) -> None:
        if node in self._group_of:
            level = self._group_of[node] + 1
        elif self._is_remade(node) and not any(output in self._xs for output in node.outputs):
            self._remade.update(node.outputs)
            return
        else:
            level = max((self._made.get(value, 0) for value in self._reads(node)), default=0)
        self._made.update(dict.fromkeys(node.outputs, level))

    def _is_remade(self, node: ir.Node) -> bool:
        return all(
            value in self._remade
            or (value.const_value is not None and value.const_value.nbytes < REMADE_BELOW_BYTES)
            or (_is_fed(value) and (node.op_type in ("Shape", "Size") or not _is_float(value)))
            for value in self._reads(node)
        )

    def _last_reads(self) -> dict[ir.Value, int]:
        """For each value that is not remade the last segment that reads it; a group reads its x at its own index."""
        last = {value: index for index, value in enumerate(self._xs)}
        for node in self._needed:
            if node in self._group_of or not any(output in self._made for output in node.outputs):
                continue
            for value in self._reads(node):
                if value in self._made:
                    last[value] = max(last.get(value, -1), self._at(node))
        return last

    def _at(self, node: ir.Node) -> int:
        """The segment of a plain node; -1 when it is remade wherever it is needed."""
        return self._made.get(node.outputs[0], -1)

    def _remade_inputs(self, values: list[ir.Value]) -> set[ir.Value]:
        """Graph inputs that a segment needs, itself or to make again what is remade."""
        seen: set[ir.Value] = set()
        stack = list(values)
        while stack:
            value = stack.pop()
            if value in seen or value in self._made:
                continue
            seen.add(value)
            producer = value.producer()
            stack += self._reads(producer) if producer else []
        return {value for value in seen if _is_fed(value)}

    def _ancestors(self, values: list[ir.Value]) -> dict[ir.Node, None]:
        """Nodes that the values depend on, in the order of the graph."""
        seen: set[ir.Node] = set()
        stack = [value.producer() for value in values]
        while stack:
            node = stack.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            stack += [value.producer() for value in self._reads(node)]
        return {node: None for node in self._model.graph if node in seen}

    def _reads(self, node: ir.Node) -> list[ir.Value]:
        """What a node reads, its subgraphs' captures included."""
        inner = [v for g in _subgraphs(node) for n in g for v in n.inputs if v is not None and v.graph is not g]
        return [value for value in (*node.inputs, *inner) if value is not None]

    def _extract(self, inputs: set[ir.Value], outputs: set[ir.Value], index: int) -> ir.Model:
        ordered_in = sorted(inputs, key=lambda value: str(value.name))
        ordered_out = sorted(outputs, key=lambda value: str(value.name))
        graph = ir.convenience.extract(self._model.graph, ordered_in, ordered_out)
        graph.name = f"segment {index}"
        for value in graph.inputs:
            if value.shape is not None:  # a traced symbol need not hold for what flows here
                value.shape = ir.Shape([size if isinstance(size, int) else None for size in value.shape])
        return ir.Model(graph, ir_version=self._model.ir_version, functions=list(self._model.functions.values()))


def as_linear(node: ir.Node) -> Linear | None:
    """MatMul(x, W), MatMul(x, Transpose(W)) or Gemm(x, W, b), with W a float matrix that nobody can override."""
    if node.domain or node.op_type not in ("MatMul", "Gemm") or len(node.inputs) < 2:
        return None
    x, weight = node.inputs[0], node.inputs[1]
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if x is None or weight is None:
        return None
    transposed = node.op_type == "Gemm" and bool(_integer(node, "transB"))
    producer = weight.producer()
    if node.op_type == "MatMul" and producer is not None and producer.op_type == "Transpose":
        perm = producer.attributes.get("perm")
        weight, transposed = producer.inputs[0], True
        if weight is None or (perm is not None and list(perm.as_ints()) != [1, 0]):
            return None
    constant = weight.const_value
    if constant is None or weight.is_graph_input() or constant.dtype not in FLOATS or len(constant.shape) != 2:
        return None
    if x.const_value is not None or (node.op_type == "Gemm" and not _plain_gemm(node, bias)):
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
        _integers(node, "strides", (1, 1)),
        _integers(node, "pads", (0,) * 4),
        _integers(node, "dilations", (1, 1)),
    )
    return Linear(str(weight.name), node, x, weight, bias, True, Window(kernel, *settings))  # type: ignore[arg-type]


def _plain_gemm(node: ir.Node, bias: ir.Value | None) -> bool:
    scales = [attribute.as_float() for name in ("alpha", "beta") if (attribute := node.attributes.get(name))]
    constant_bias = bias is None or (bias.const_value is not None and len(bias.const_value.shape) == 1)
    return not _integer(node, "transA") and all(scale == 1 for scale in scales) and constant_bias


def _integer(node: ir.Node, name: str) -> int:
    attribute = node.attributes.get(name)
    return attribute.as_int() if attribute else 0


def _integers(node: ir.Node, name: str, otherwise: tuple[int, ...]) -> tuple[int, ...]:
    attribute = node.attributes.get(name)
    return tuple(attribute.as_ints()) if attribute else otherwise


def _refusal(linear: Linear, exclude: Sequence[str]) -> str:
    """Why a linear keeps its weight; empty when it does not."""
    named = next((one for one in exclude if one in linear.name), None)
    if named:
        return f"excluded by '{named}'"
    if linear.window is not None and _integer(linear.node, "group") > 1:
        return "a convolution in groups, each with inputs of its own"
    automatic = linear.node.attributes.get("auto_pad")
    if linear.window is not None and automatic and automatic.as_string() not in ("NOTSET", "VALID"):
        return "a convolution whose padding is not stated"
    if _chooses(linear.y):
        return "a router: rounded scores choose other experts"
    readers = {use.node for use in linear.weight.uses()}
    between = linear.node.inputs[1]
    if between is not linear.weight and between is not None:
        readers |= {use.node for use in between.uses()} - {linear.node}
        readers -= {between.producer()}
    if readers - {linear.node}:
        return f"shared with {', '.join(sorted({str(node.op_type) for node in readers - {linear.node}}))}"
    return ""


def _chooses(scores: ir.Value) -> bool:
    """Whether a TopK picks among the scores, or among what is made of them one by one."""
    readers = [use.node for use in scores.uses()]
    return any(
        node.op_type == "TopK" or (node.op_type in SCORE_SWEEPS and _chooses(node.outputs[0])) for node in readers
    )


def drop_unread(graph: ir.Graph, value: ir.Value | None) -> None:
    """Remove a weight, and the nodes that only turned it into what was read, once nobody reads them."""
    if value is None or value.uses() or value.is_graph_output():
        return
    producer = value.producer()
    if producer is None:
        graph.initializers.pop(str(value.name), None)
        return
    sources = list(producer.inputs)
    graph.remove(producer, safe=True)
    for source in sources:
        drop_unread(graph, source)


def _is_fed(value: ir.Value) -> bool:
    return value.is_graph_input() and value.const_value is None


def _is_float(value: ir.Value) -> bool:
    """Floating-point inputs are data: what is computed from them is carried, not made again."""
    return value.dtype is None or value.dtype.is_floating_point()


def _subgraphs(node: ir.Node) -> list[ir.Graph]:
    kinds = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    attributes = [one for one in node.attributes.values() if isinstance(one, ir.Attr) and one.type in kinds]
    return [g for one in attributes for g in ([one.as_graph()] if one.type == kinds[0] else one.as_graphs())]


def _copied(value: NDArray[Any]) -> NDArray[Any]:
    """A value that ONNX Runtime made, out of its session's arena: that is twice as large and would live as long."""
    if not isinstance(value, np.ndarray) or value.dtype.hasobject or not value.size:  # a sequence, strings, nothing
        return value
    copy = np.frombuffer(_mapped(value.nbytes), value.dtype).reshape(value.shape)
    copy[...] = value
    return copy


def _mapped(nbytes: int) -> mmap.mmap:
    """Memory of its own: it goes back the moment nobody looks at it, where the heap would keep a hole."""
    return mmap.mmap(-1, nbytes, access=mmap.ACCESS_COPY)


def return_free_memory() -> None:
    """glibc keeps what is freed between blocks in use; a solve of 2048 inputs left 200 MB of such holes."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim:
        trim(0)


def _tensor(value: ir.Value) -> Tensor:
    """A constant as torch sees it, in float32; of a file mapped while somebody holds it, never written back."""
    constant = value.const_value
    assert constant is not None  # held by find_linears
    if isinstance(constant, ir.ExternalTensor) and constant.size:
        dtype, shape = constant.dtype.numpy().newbyteorder("<"), constant.shape.numpy()
        mapped = np.memmap(constant.path, dtype, "c", constant.offset or 0, shape)  # torch takes no read-only memory
        return torch.from_numpy(np.require(mapped, requirements="A")).float()
    return torch.from_numpy(np.array(constant.numpy())).float()
