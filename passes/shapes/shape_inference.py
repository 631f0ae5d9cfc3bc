"""Every value carries the type and shape that follow from the operators, and none that a file merely claims."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import onnx
import onnx_ir as ir

from passes.editing.naming import values
from passes.editing.nesting import every_node
from passes.editing.refusal import Refusal
from passes.shapes.sizes import GIVEN, Size, Symbol
from passes.shapes.symbols import INFERRED, Symbols

LARGEST_TENSOR_SENT = 1024  # bytes: a shape is shorter; weights are sent as inputs, by their type alone


@dataclass
class ShapeInference(ir.passes.InPlacePass):
    """Types and shapes by the rules of the `onnx` package, merged with care.

    Known dimensions are written, symbols are not, for a name that two values share proves nothing. A type that is
    there stays. The shape a graph output declares is its interface and stays; what was inferred is noted beside it.
    Where the rules contradict the file, the finding is a refusal and the rest is inferred all the same.
    """

    refusals: list[Refusal] = field(default_factory=list, init=False)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        self.refusals = []
        inferred = self._infer(_abstract(model))
        found = dict(_types(inferred.graph)) if inferred else {}
        return ir.passes.PassResult(model, any([_merge(value, found) for value in values(model.graph)]))

    def _infer(self, proto: onnx.ModelProto) -> onnx.ModelProto | None:
        try:
            return onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)
        except Exception as error:  # its C++ part raises several types
            self._refuse(proto, error)
        try:
            return onnx.shape_inference.infer_shapes(proto, check_type=False, strict_mode=False, data_prop=True)
        except Exception as error:
            self._refuse(proto, error)
            return None

    def _refuse(self, proto: onnx.ModelProto, error: Exception) -> None:
        self.refusals.append(Refusal(proto.graph.name, "Graph", " ".join(str(error).split())[:200]))


def forget_shapes(model: ir.Model) -> bool:
    """Drop what a file says of the sizes between its inputs and outputs: a stale batch size there misleads folding.

    What operators of other domains give, no rule can tell again, and it stays. What a Loop carries keeps its rank: its
    sizes may be others in each trip, and no runtime holds a body to those it declares. Tells whether one went.
    """
    for node in every_node(model.graph):
        for value in node.outputs:
            if node.domain == "" and not value.is_graph_output():
                value.shape = None
    claimed = [value for graph in model.graph.subgraphs() for value in graph.inputs if any(_numbers(value.shape) or ())]
    for value in claimed:
        value.shape = ir.Shape([None] * len(value.shape or ()))
    return bool(claimed)


def note_symbols(root: ir.Graph) -> None:
    """Write down what is known of sizes that are no numbers: equal names for sizes that are equal in every run.

    A size of a graph input keeps the name that the file gives it.
    """
    symbols, names = Symbols(root, trust_names=True), _SizeNames(root)
    for node in every_node(root):
        for value in node.outputs:
            sizes = None if value.is_graph_output() or node.domain else symbols.shape(value)
            if sizes is not None and isinstance(value.type, (ir.TensorType, type(None))):
                value.shape = ir.Shape([names.write(size) for size in sizes])


class _SizeNames:
    """Sizes as a file writes them: the names of the inputs' sizes, and `size_1`, ... in the order of their use."""

    def __init__(self, root: ir.Graph) -> None:
        self._given: dict[Symbol, str] = {}
        dimensions = (size for value in root.inputs for size in value.shape or ())
        self._declared = {size.value for size in dimensions if isinstance(size, ir.SymbolicDim)}

    def write(self, size: Size) -> int | str:
        if size.known is not None:
            return size.known
        terms = ("*".join(self._factors(symbols, factor)) for symbols, factor in size.terms)
        return " + ".join(terms)

    def _factors(self, symbols: Iterable[Symbol], factor: int) -> list[str]:
        names = [self._name(symbol) for symbol in symbols]
        return names if names and factor == 1 else [str(factor), *names]

    def _name(self, symbol: Symbol) -> str:
        name = symbol[0].removeprefix(GIVEN)
        if name in self._declared and symbol[0] != name:
            return name
        if symbol not in self._given:
            numbers = (f"size_{number}" for number in itertools.count(len(self._given) + 1))
            self._given[symbol] = next(name for name in numbers if name not in self._declared)
        return self._given[symbol]


def knows_more(after: dict[ir.Value, Known], before: dict[ir.Value, Known]) -> bool:
    """A type, a rank or a size is a number that was none."""
    for value, (dtype, sizes) in after.items():
        old_type, old = before.get(value, (None, None))
        if (dtype is not None and old_type is None) or (sizes is not None and old is None):
            return True
        if sizes and old and any(now is not None and was is None for now, was in zip(sizes, old, strict=False)):
            return True
    return False


Known = tuple[ir.TypeProtocol | None, list[int | None] | None]


def known_sizes(root: ir.Graph) -> dict[ir.Value, Known]:
    """Type and sizes of every value as far as they are numbers."""
    return {value: (value.type, _numbers(value.shape)) for value in values(root)}


def _numbers(shape: ir.Shape | None) -> list[int | None] | None:
    return None if shape is None else [size if isinstance(size, int) else None for size in shape]


def _abstract(model: ir.Model) -> onnx.ModelProto:
    """The model without its large weights, and without the shapes that its outputs declare."""
    proto = without_large_weights(model)
    for output in proto.graph.output:
        output.type.tensor_type.ClearField("shape")
    return proto


def without_large_weights(model: ir.Model) -> onnx.ModelProto:
    """They are inputs of the same type and shape."""
    graph = model.graph
    inputs, weights = list(graph.inputs), [v for v in graph.initializers.values() if _is_large(v.const_value)]
    try:
        for value in weights:
            del graph.initializers[str(value.name)]
        graph.inputs.extend(value for value in weights if value not in inputs)
        proto: onnx.ModelProto = ir.to_proto(model)
    finally:
        graph.inputs.clear()
        graph.inputs.extend(inputs)
        for value in weights:
            graph.register_initializer(value)
    return proto


def _is_large(tensor: ir.TensorProtocol | None) -> bool:
    return tensor is not None and tensor.nbytes > LARGEST_TENSOR_SENT


def _types(graph: onnx.GraphProto) -> Iterator[tuple[str, onnx.TypeProto]]:
    for value in (*graph.value_info, *graph.output):
        yield value.name, value.type
    for node in graph.node:
        for attribute in node.attribute:
            for inner in _graphs(attribute):
                yield from _types(inner)


def _graphs(attribute: onnx.AttributeProto) -> Iterable[onnx.GraphProto]:
    return (attribute.g,) if attribute.type == onnx.AttributeProto.GRAPH else attribute.graphs


def _merge(value: ir.Value, found: dict[str, onnx.TypeProto]) -> bool:
    known = found.get(value.name or "")
    if known is None or not known.HasField("tensor_type") or not isinstance(value.type, (ir.TensorType, type(None))):
        return False
    modified = False
    if value.type is None and known.tensor_type.elem_type:
        value.type, modified = ir.TensorType(ir.DataType(known.tensor_type.elem_type)), True
    if not known.tensor_type.HasField("shape") or value.is_graph_input():
        return modified
    sizes = [_size(dimension) for dimension in known.tensor_type.shape.dim]
    if value.is_graph_output():
        value.meta[INFERRED] = ir.Shape(sizes)
        return modified
    return _refine(value, sizes) or modified


def _size(dimension: onnx.TensorShapeProto.Dimension) -> int | None:
    return dimension.dim_value if dimension.HasField("dim_value") and dimension.dim_value >= 0 else None


def _refine(value: ir.Value, sizes: list[int | None]) -> bool:
    """Write the sizes that are known; where none is news, nothing changes."""
    old: list[object] = list(value.shape) if value.shape is not None and len(value.shape) == len(sizes) else []
    if old and all(size is None or size == was for size, was in zip(sizes, old, strict=True)):
        return False
    merged = [was if size is None else size for size, was in zip(sizes, old or [None] * len(sizes), strict=True)]
    if value.shape is not None and not merged:
        return False
    value.shape = ir.Shape([one if isinstance(one, (int, str)) else _name(one) for one in merged])
    return True


def _name(size: object) -> str | None:
    return size.value if isinstance(size, ir.SymbolicDim) else None
