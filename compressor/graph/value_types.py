"""The types of a graph's values, where its file leaves them unsaid."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

SEQUENCES = frozenset({"SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert", "SplitToSequence"})


def state(model: ir.Model) -> None:
    """Say the type of every value, in place; of sequences none, for ONNX Runtime infers what they are."""
    if any(value.dtype is None for node in model.graph for value in node.outputs):
        infer(model)
    else:
        _leave_sequences(model)


def infer(model: ir.Model) -> None:
    """Say what types and shapes follow from the graph, in place; of sequences neither."""
    ShapeInferencePass(check_type=False, strict_mode=False)(model)  # one node that is not understood is one
    _leave_sequences(model)


def _leave_sequences(model: ir.Model) -> None:
    for node in model.graph:
        if node.op_type in SEQUENCES:  # onnx_ir 1.1 calls them tensors
            node.outputs[0].type = node.outputs[0].shape = None
