"""One way to say a thing, so that the graph of a layer does not depend on the layers before it.

Constant              an initializer, each value once: a trace makes it where it is first read
Shape(some cache)[2]  the size of a free axis is read from the first input that has the axis
Identity              gone
weights               in the order in which they are read
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import onnx_ir as ir
import onnx_ir.passes.common as common_passes

CONSTANT = "constant_{}"


def canonicalise(model: ir.Model, weights: Collection[str], axes: Mapping[str, str]) -> None:
    """Rewrite in place; `weights` are the initializers that are no constants; `axes` gives sums of axes a name."""
    common_passes.IdentityEliminationPass()(model)
    common_passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    _read_axes_once(model.graph)
    _name_axes(model.graph, axes)
    common_passes.RemoveUnusedNodesPass()(model)
    _state_constants_once(model.graph, weights)


def _name_axes(graph: ir.Graph, axes: Mapping[str, str]) -> None:
    made = [value for node in graph for value in node.outputs]
    for value in made:
        if value.shape is not None:
            value.shape = ir.Shape(
                [size if isinstance(size, int) else axes.get(str(size), size) for size in value.shape]
            )
    for value in (*graph.inputs, *graph.outputs, *graph.initializers.values()):
        value.metadata_props.clear()  # what the tracer noted of them


def _read_axes_once(graph: ir.Graph) -> None:
    """Shape of one free axis of an input: always of the first input that has it."""
    first: dict[str, tuple[ir.Value, int]] = {}
    for value in graph.inputs:
        for axis, size in enumerate(value.shape or ()):
            first.setdefault(str(size), (value, axis))
    for node in graph:
        source = node.inputs[0] if node.op_type == "Shape" else None
        if source is None or not source.is_graph_input() or source.shape is None:
            continue
        start, end = (node.attributes[name].as_int() if name in node.attributes else None for name in ("start", "end"))
        if start is not None and end == start + 1:
            value, axis = first[str(source.shape[start])]
            node.replace_input_with(0, value)
            node.attributes["start"] = ir.AttrInt64("start", axis)
            node.attributes["end"] = ir.AttrInt64("end", axis + 1)


def _state_constants_once(graph: ir.Graph, weights: Collection[str]) -> None:
    """Equal constants are one, numbered in the order in which they are read."""
    known: dict[tuple[object, ...], ir.Value] = {}
    constants = {name: value for name, value in graph.initializers.items() if name not in weights}
    for node in graph:
        for index, value in enumerate(node.inputs):
            if value is None or constants.get(str(value.name)) is not value:
                continue
            tensor = value.const_value
            assert tensor is not None  # an initializer of a trace has its value
            content = (tensor.dtype, tuple(tensor.shape), tensor.tobytes())
            node.replace_input_with(index, known.setdefault(content, value))
    for name, value in constants.items():
        if not value.uses():  # a subgraph may still read it
            del graph.initializers[name]
    for number, value in enumerate(known.values()):
        value.name = CONSTANT.format(number)
        graph.register_initializer(value)


def order_weights(graph: ir.Graph) -> None:
    """Initializers in the order in which they are read: so they lie in the file, and so it is read."""
    read = [value for node in graph for value in node.inputs if value is not None and value.is_initializer()]
    ordered = list(dict.fromkeys([*read, *graph.initializers.values()]))
    for value in ordered:
        del graph.initializers[str(value.name)]
    for value in ordered:
        graph.initializers[str(value.name)] = value
