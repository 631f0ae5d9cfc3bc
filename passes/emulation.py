"""A twin that computes in float32 and rounds to a narrower type: for machines without kernels in that type.

y = MatMul(h, W)  in bfloat16     ->     m = MatMul(h, W) in float32; y = Cast(Cast(m, bfloat16), float)

Sums are kept in float32 there too, as matrix units keep them; so the twin rounds where they do.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from passes.naming import Names


def emulated(model: ir.Model, dtype: ir.DataType) -> ir.Model:
    """The main graph's values of that type, those of the interface excepted, become rounded floats."""
    twin = model.clone()
    names = Names(twin.graph)
    for value in list(_values(twin.graph)):
        if value.dtype == dtype and not value.is_graph_output():
            _round(value, dtype, twin.graph, names)
    for node in twin.graph:
        if node.op_type == "Cast" and node.attributes["to"].as_int() == dtype and node.outputs[0].dtype != dtype:
            node.attributes["to"] = ir.AttrInt64("to", ir.DataType.FLOAT)
    return twin


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs


def _round(value: ir.Value, dtype: ir.DataType, graph: ir.Graph, names: Names) -> None:
    """Readers read Cast(value, float) of what is stored, and Cast(Cast(value, dtype), float) of what is computed."""
    readers, maker = list(value.uses()), value.producer()
    source = value
    if maker is not None:
        value.type = ir.TensorType(ir.DataType.FLOAT)
        source = _cast(value, dtype, maker, graph, names)
    wide = _cast(source, ir.DataType.FLOAT, source.producer(), graph, names)
    for reader, place in readers:
        reader.replace_input_with(place, wide)


def _cast(value: ir.Value, dtype: ir.DataType, behind: ir.Node | None, graph: ir.Graph, names: Names) -> ir.Value:
    cast = ir.node("Cast", [value], {"to": dtype})
    result = cast.outputs[0]
    result.name, result.type = names.fresh(f"{value.name}_{dtype.name.lower()}"), ir.TensorType(dtype)
    if behind is not None:
        behind.append(cast)
    else:
        graph.insert_before(graph[0], cast)
    return result
