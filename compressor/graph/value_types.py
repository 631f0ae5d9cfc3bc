"""The types of a graph's values, where its file leaves them unsaid."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from compressor.graph.reading import from_message
from passes.shapes.shape_inference import without_large_weights

SEQUENCES = frozenset({"SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert", "SplitToSequence"})


def state(model: ir.Model) -> None:
    """Say the type of every value, in place; of sequences none, for ONNX Runtime infers what they are."""
    if any(value.dtype is None for node in model.graph for value in node.outputs):
        infer(model)
    else:
        _leave_sequences(model)


def infer(model: ir.Model) -> None:
    """Say what types and shapes follow from the graph, in place; of sequences neither."""
    inferred = from_message(onnx.shape_inference.infer_shapes(without_large_weights(model), data_prop=True))
    for graph, known in zip(model.graphs(), inferred.graphs(), strict=True):
        values, found = map(ir.convenience.create_value_mapping, (graph, known))
        for name in values.keys() & found.keys():
            shape, dtype = found[name].shape, found[name].dtype
            if shape is not None:
                values[name].shape = shape
            if dtype is not None:
                values[name].dtype = dtype
    _leave_sequences(model)


def _leave_sequences(model: ir.Model) -> None:
    for node in model.graph:
        if node.op_type in SEQUENCES:  # onnx_ir 1.1 calls them tensors
            node.outputs[0].type = node.outputs[0].shape = None
