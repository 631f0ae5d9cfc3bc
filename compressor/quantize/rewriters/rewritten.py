"""What a method that rewrites the graph hands back, and what keeps it from a graph that was quantized before."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx_ir as ir

from compressor.errors import RequestError

QUANTIZED = frozenset(
    {
        "QuantizeLinear",
        "DequantizeLinear",
        "DynamicQuantizeLinear",
        "MatMulInteger",
        "ConvInteger",
        "QLinearConv",
        "QLinearMatMul",
        "QGemm",
        "DynamicQuantizeMatMul",
        "MatMulIntegerToFloat",
        "MatMulNBits",
        "MatMulBnb4",
        "GatherBlockQuantized",
    }
)


@dataclass(frozen=True)
class Rewritten:
    """A quantized graph with its layer table, and the nodes left float with their reasons."""

    model: ir.Model = field(repr=False)
    rows: list[dict[str, Any]]
    left_alone: dict[str, str]
    fallbacks: list[str]


def label(node: ir.Node) -> str:
    """What a node is called in tables and by `exclude`: its weight, its name or its output."""
    weight = node.inputs[1] if len(node.inputs) > 1 else None
    producer = weight.producer() if weight is not None else None
    if producer is not None and producer.op_type == "Transpose":
        weight = producer.inputs[0]
    named = weight is not None and weight.is_initializer()
    return str((weight.name if named and weight is not None else None) or node.name or node.outputs[0].name)


def refuse_quantized(model: ir.Model, path: Path) -> None:
    """Raises: RequestError for a graph with quantized operators: to round what is rounded would only lose more."""
    found = Counter(node.op_type for node in model.graph.all_nodes() if node.op_type in QUANTIZED)
    if found:
        (name, count), *_ = found.most_common(1)
        raise RequestError(f"{path}: quantized already ({count} x {name}); name the float graph it was made from")
