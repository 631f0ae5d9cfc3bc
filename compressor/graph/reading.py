"""A file -> a graph, with what onnx_ir leaves out: sparse weights, maps, and attributes whose data lies in other files.

A graph whose data lies where it must not is read here all the same; session.py refuses it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir import external_data

from compressor.graph import maps

logging.getLogger("onnx_ir").setLevel(logging.ERROR)  # what it warns of we refuse, in a line of our own
MOST_ENTRIES = 1 << 28  # of a sparse weight, once the zeros are written too


def read(path: Path) -> ir.Model:
    """Tensors that lie in other files stay there, mapped. Raises: whatever protobuf, onnx and onnx_ir do."""
    import onnx

    model = from_message(onnx.load(path, load_external_data=False))
    for root in _roots(model):
        external_data.set_base_dir(root, path.parent)
    return model


def from_message(proto: Any) -> ir.Model:
    """Without a sparse tensor: weights and Constants have dense ones, and no other operator has any."""
    from onnx import helper

    types = maps.take_out(proto.graph, _graphs(proto.graph))
    for graph in _graphs(proto.graph):
        for sparse in graph.sparse_initializer:
            graph.initializer.append(_dense(sparse))
        del graph.sparse_initializer[:]
        for attribute in (one for node in graph.node if node.op_type == "Constant" for one in node.attribute):
            if attribute.name == "sparse_value":
                attribute.CopyFrom(helper.make_attribute("value", _dense(attribute.sparse_tensor)))
    model: ir.Model = ir.from_proto(proto)
    if types:
        model.graph.meta[maps.TYPES] = types
    return model


def read_from_nowhere(model: ir.Model) -> str | None:
    """A value that a node or a caller reads, and that is no input, no weight and no node's."""
    for graph in _all_graphs(model):
        read = (value for node in graph for value in node.inputs if value is not None)
        for value in (*read, *graph.outputs):
            if value.producer() is None and not value.is_graph_input() and not value.is_initializer():
                return value.name
    return None


def external_tensors(model: ir.Model) -> list[ir.ExternalTensor]:
    """Weights and attributes whose data lies in other files."""
    weights = (value.const_value for graph in _all_graphs(model) for value in graph.initializers.values())
    attributes = (attribute.value for _, _, attribute in _tensor_attributes(model))
    return [one for one in (*weights, *attributes) if isinstance(one, ir.ExternalTensor)]


def embed_attributes(model: ir.Model) -> None:
    """Take the data of attributes into memory: a runtime that is given a graph in bytes finds none of it."""
    for node, name, attribute in list(_tensor_attributes(model)):
        tensor = attribute.value
        if isinstance(tensor, ir.ExternalTensor):
            node.attributes[name] = ir.AttrTensor(name, ir.Tensor(tensor.numpy(), tensor.dtype, name=tensor.name))


def _tensor_attributes(model: ir.Model) -> Iterator[tuple[ir.Node, str, ir.Attr]]:
    for node in (node for graph in _all_graphs(model) for node in graph):
        for name, attribute in node.attributes.data.items():
            if attribute.type == ir.AttributeType.TENSOR:
                yield node, name, attribute


def _roots(model: ir.Model) -> list[ir.Graph]:
    """The main graph and the bodies of functions."""
    return [model.graph, *(function.graph for function in model.functions.values())]


def _all_graphs(model: ir.Model) -> Iterator[ir.Graph]:
    for root in _roots(model):
        yield from (root, *root.subgraphs())


def _graphs(graph: Any) -> Iterator[Any]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
                yield from _graphs(inner)


def _dense(sparse: Any) -> Any:
    """The same weight with its zeros; places are counted in order, or one number an axis."""
    from onnx import numpy_helper

    shape = tuple(sparse.dims)
    if any(one.data_location for one in (sparse.values, sparse.indices)):
        raise ValueError(f"the sparse weight '{sparse.values.name}' lies in another file")
    if math.prod(shape) > MOST_ENTRIES:
        raise ValueError(f"the sparse weight '{sparse.values.name}' has {math.prod(shape)} entries")
    values, places = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices)
    dense = np.zeros(math.prod(shape), values.dtype)
    dense[np.ravel_multi_index(tuple(places.T), shape) if places.ndim == 2 else places] = values
    return numpy_helper.from_array(dense.reshape(shape), sparse.values.name)
