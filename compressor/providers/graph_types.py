"""The type of every value, contributed operators included: kernels are chosen by type.

    ONNX's shape inference first; then each operator's definition in ONNX Runtime:
    MatMulNBits(A: T1 = float16, B: uint8, scales) -> Y: T1     so Y is float16

Works on a copy; the weights are not copied. Constants become initializers, as ONNX Runtime makes them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import onnx
import onnx_ir as ir
from onnx import inliner
from onnx_ir.passes import common

from compressor.errors import RequestError
from compressor.graph import value_types
from compressor.graph.reading import from_message
from compressor.providers import kernels
from passes.import_normalization import inline

# Outputs whose type an attribute names: an element type as a number, or a tensor that has one.
TYPE_ATTRIBUTE = {
    "Cast": "to", "EyeLike": "dtype", "RandomNormal": "dtype", "RandomUniform": "dtype", "RandomNormalLike": "dtype",
    "RandomUniformLike": "dtype", "Multinomial": "dtype", "Bernoulli": "dtype", "BlackmanWindow": "output_datatype",
    "HannWindow": "output_datatype", "HammingWindow": "output_datatype", "QuantizeLinear": "output_dtype",
    "DequantizeLinear": "output_dtype",
}  # fmt: skip
FLOAT = 1  # ONNX's number of float32: the elements of a SequenceEmpty that names none


def prepared(model: ir.Model) -> ir.Model:
    """A copy as ONNX Runtime sees it before it places nodes: functions inlined, constants lifted, types known.

    Raises: RequestError where nodes wait for each other.
    """
    try:
        model.graph.sort()  # files need not be in order, and a clone does
    except ValueError:
        raise RequestError(
            f"graph '{model.graph.name}': its nodes form a circle, in which none can be the first"
        ) from None
    twin = model.clone()
    inline(twin)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(twin)
    value_types.infer(twin)
    _propagate(twin.graph, twin.opset_imports)
    return twin


def is_function(domain: str, op_type: str, opset: int) -> bool:
    """Does the standard define this operator by others?"""
    try:
        schema: Any = onnx.defs.get_schema(op_type, opset, domain)
    except onnx.defs.SchemaError:
        return False
    return bool(schema.has_function or schema.has_context_dependent_function)


def inlined(model: ir.Model, operators: set[tuple[str, str]]) -> ir.Model | None:
    """These operators replaced by the function that defines them, as ONNX Runtime does for want of a kernel; None
    where the types do not say which."""
    proto: Any = ir.to_proto(model)
    try:
        result = inliner.inline_selected_functions(proto, sorted(operators), inline_schema_functions=True)
    except RuntimeError:  # a function that depends on a type nobody knows
        return None
    return from_message(result)


def type_of(value: ir.Value | None) -> str | None:
    """float, int64, seq(tensor(float)) ... as kernel tables write it; None for an absent or unknown one."""
    if value is None or (type_ := value.type or _initial(value)) is None:
        return None
    if isinstance(type_, (ir.SequenceType, ir.OptionalType)):
        kind = "seq" if isinstance(type_, ir.SequenceType) else "optional"
        inner = type_.elem_type
        return f"{kind}({_nested(inner)})" if inner is not None else None
    return type_.dtype.name.lower()


def types_of(node: ir.Node, schema: Any) -> dict[str, str | None]:
    """Type variable and name of each input and output -> its type; of several values the first that is there."""
    found: dict[str, str | None] = {}
    for values, formals in ((node.inputs, schema.inputs), (node.outputs, schema.outputs)):
        for value, formal in zip(values, formals, strict=False):  # a variadic one speaks by its first
            for name in (formal.typeStr, formal.name):
                found[name] = found.get(name) or type_of(value)
    return found


def dims(value: ir.Value | None) -> list[int | None] | None:
    """Sizes, None for a free axis; None when the rank is unknown."""
    shape = None if value is None else value.shape
    if shape is None:
        return list(value.const_value.shape.numpy()) if value is not None and value.const_value is not None else None
    return [size if isinstance(size, int) else None for size in shape]


def _propagate(graph: ir.Graph, opsets: Mapping[str, int]) -> None:
    for node in graph:
        for inner in subgraphs(node):
            _propagate(inner, opsets)
        schema = kernels.schema(node.domain, node.op_type, opsets.get(node.domain, 1))
        if schema is not None:
            _give_types(node, schema)
        if node.op_type == "CastLike" and (like := type_of(node.inputs[1])) is not None:
            _make_cast(node, like)


def _make_cast(node: ir.Node, type_: str) -> None:
    """ONNX Runtime has no CastLike and reads it as the Cast that it means."""
    node.op_type = "Cast"
    node.attributes["to"] = ir.AttrInt64("to", int(ir.DataType[type_.upper()]))
    node.resize_inputs(1)


def subgraphs(node: ir.Node) -> Iterator[ir.Graph]:
    """The bodies that a node carries: branches of an If, of a Loop, of a Scan."""
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()


def _give_types(node: ir.Node, schema: Any) -> None:
    """A type that the operator cannot have is corrected: exporters annotate sequences as tensors."""
    known = types_of(node, schema)
    named, inner = _named(node), type_of(node.inputs[0]) if node.inputs else None
    if node.op_type == "SequenceEmpty":
        inner = ir.DataType(node.attributes.get_int("dtype", FLOAT)).name.lower()
    for output, formal in zip(node.outputs, schema.outputs, strict=False):
        choices = {kernels.short_type(one) for one in formal.types}
        if type_of(output) in choices:
            continue
        candidates = (named, known.get(formal.typeStr), f"seq(tensor({inner}))")
        found = next((one for one in candidates if one in choices), None)
        if found or len(choices) == 1:
            output.type = _type(found or next(iter(choices)))


def _type(text: str) -> ir.TypeProtocol | None:
    """The type that a kernel table writes like this; None for one that is neither a tensor nor a sequence of them."""
    inner = text.removeprefix("seq(tensor(").removesuffix("))")
    if inner.upper() not in ir.DataType.__members__:
        return None
    tensor = ir.TensorType(ir.DataType[inner.upper()])
    return tensor if inner == text else ir.SequenceType(tensor)


def _named(node: ir.Node) -> str | None:
    """The element type that an attribute states."""
    name = TYPE_ATTRIBUTE.get(node.op_type)
    number = node.attributes.get_int(name, 0) if name else 0
    return ir.DataType(number).name.lower() if number else None


def _initial(value: ir.Value) -> ir.TypeProtocol | None:
    return ir.TensorType(value.const_value.dtype) if value.const_value is not None else None


def _nested(type_: Any) -> str:
    inner = getattr(type_, "elem_type", None)
    if isinstance(type_, ir.TensorType):
        return f"tensor({type_.dtype.name.lower()})"
    return f"seq({_nested(inner)})" if isinstance(type_, ir.SequenceType) else f"optional({_nested(inner)})"
