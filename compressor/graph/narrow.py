"""The half types for ONNX Runtime's CPU, which has few kernels for them: computed in float32, rounded after every node.

    y = Mul(a, b)   ->   y = Cast(Mul(Cast(a, float32), Cast(b, float32)), bfloat16)

A product of two bfloat16 has 16 bits, of two float16 22, and float32 holds 24, so the rounded result is the one that a
kernel would give. ONNX Runtime puts such casts into a float16 graph itself, and then computes all of its weights in
float32 before the first layer runs. Sums are kept in float32 here too, as matrix units keep them.
"""

from __future__ import annotations

import onnx_ir as ir

from compressor.graph import value_types

WIDE, BFLOAT16 = ir.DataType.FLOAT, ir.DataType.BFLOAT16
MADE = {"Cast": "to", "Constant": "value", "ConstantOfShape": "value"}  # operator -> the attribute that tells its type
MOVED = frozenset({"Gather", "Reshape", "Transpose"})  # kernels for every type: nothing is computed
KEPT = MADE.keys() | MOVED | {"Shape"}


def compute_wide(model: ir.Model, narrow: ir.DataType = BFLOAT16) -> None:
    """Every operator on a half type computes in float32; types and interface stay.

    Where a file leaves the types between nodes unsaid, what is computed from float32 is taken for float32, and a node
    that only moves or makes data is given the type of its input or of its attribute.
    """
    for node in list(model.graph):
        if node.op_type in KEPT and not node.domain and _gives(node) == narrow:
            node.outputs[0].type = ir.TensorType(narrow)
        if node.op_type in KEPT and not node.domain:
            continue
        for index, value in enumerate(node.inputs):
            if value is not None and value.dtype == narrow:
                node.replace_input_with(index, _cast_before(node, value, WIDE, f"{node.outputs[0].name}_wide_{index}"))
        for value in node.outputs:
            if value.dtype == narrow:
                _round(model.graph, node, value)


def _gives(node: ir.Node) -> ir.DataType | None:
    """The type of a node's result, where the node computes nothing."""
    if node.op_type in MOVED:
        return node.inputs[0].dtype if node.inputs[0] is not None else None
    told = node.attributes.get(MADE.get(node.op_type, ""))
    if told is None:
        return None
    return ir.DataType(told.as_int()) if told.type == ir.AttributeType.INT else told.as_tensor().dtype


def runnable(model: ir.Model, narrow: ir.DataType) -> ir.Model:
    """A graph of a half type as the CPU can run it; bfloat16, which numpy has not, is float32 in its interface."""
    value_types.state(model)  # a type that is said behind one that is not would be taken at its word
    compute_wide(model, narrow)
    return _wide_outside(model) if narrow == BFLOAT16 else model


def _wide_outside(model: ir.Model) -> ir.Model:
    for value in model.graph.inputs:
        if value.dtype == BFLOAT16:
            value.type = ir.TensorType(WIDE)
            readers = value.uses()
            for use in readers:
                narrow = _cast_before(use.node, value, BFLOAT16, f"{use.node.outputs[0].name}_narrow_{use.idx}")
                use.node.replace_input_with(use.idx, narrow)
    for index, value in enumerate(model.graph.outputs):
        if value.dtype == BFLOAT16:
            name, value.name = value.name, f"{value.name}_narrow"
            cast = ir.node("Cast", [value], {"to": WIDE.value}, name=f"{name}_wide")
            model.graph.append(cast)
            cast.outputs[0].name, cast.outputs[0].type, cast.outputs[0].shape = name, ir.TensorType(WIDE), value.shape
            model.graph.outputs[index] = cast.outputs[0]
    return model


def _cast_before(node: ir.Node, value: ir.Value, dtype: ir.DataType, name: str) -> ir.Value:
    cast = ir.node("Cast", [value], {"to": dtype.value}, name=name)
    assert node.graph is not None  # it was found in one
    node.graph.insert_before(node, cast)
    cast.outputs[0].name, cast.outputs[0].type, cast.outputs[0].shape = name, ir.TensorType(dtype), value.shape
    return cast.outputs[0]


def _round(graph: ir.Graph, node: ir.Node, value: ir.Value) -> None:
    """The node's output is float32 from here on; its readers see it rounded."""
    assert value.dtype is not None  # it is the half type
    cast = ir.node("Cast", [value], {"to": value.dtype.value}, name=f"{value.name}_narrow")
    graph.insert_after(node, cast)
    rounded = cast.outputs[0]
    rounded.name, rounded.type, rounded.shape = value.name, ir.TensorType(value.dtype), value.shape
    for use in value.uses():
        if use.node is not cast:
            use.node.replace_input_with(use.idx, rounded)
    for index, output in enumerate(graph.outputs):
        if output is value:
            graph.outputs[index] = rounded
    value.name, value.type = f"{value.name}_wide", ir.TensorType(WIDE)
