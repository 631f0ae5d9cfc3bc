"""What the parser of TensorRT 10 takes: operators and types as data (`tables/tensorrt-10.csv`), conditions as rows.

Sources: [trt] onnx-tensorrt's docs/operators.md and release notes of the 10.x line; [nv] NVIDIA's pages on quantized
types and explicit quantization; [ort] messages in ONNX Runtime's TensorRT provider. None has been run on a GPU here.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from compressor.providers.graph_types import dims, type_of
from compressor.providers.kernels import TABLES
from compressor.providers.rules import Rule

FIRST_OPSET, LAST_OPSET = 9, 24
INT4_BLOCKS = (64, 128)
TOP_K_LIMIT = 3840


def zero_points_are_zero(node: ir.Node) -> bool:
    """True without a zero point; a constant one is read, one that is computed is not zero as far as anybody knows."""
    if len(node.inputs) < 3 or (zero := node.inputs[2]) is None:
        return True
    return zero.const_value is not None and not np.any(zero.const_value.numpy().astype(np.float32))


def _zero_point(node: ir.Node) -> bool:
    return not zero_points_are_zero(node)


def _unsigned(node: ir.Node) -> bool:
    code = node.outputs[0] if node.op_type == "QuantizeLinear" else node.inputs[0]
    return type_of(code) in ("uint8", "uint4", "uint16", "int16")


def _int32_codes(node: ir.Node) -> bool:
    return type_of(node.inputs[0]) == "int32"


def _odd_int4_block(node: ir.Node) -> bool:
    block = node.attributes.get_int("block_size", 0)
    return type_of(node.inputs[0]) in ("int4", "uint4") and block not in INT4_BLOCKS


def _rank_unknown(node: ir.Node) -> bool:
    return any(dims(value) is None for value in node.inputs if value is not None and type_of(value) is not None)


def _large_k(node: ir.Node) -> bool:
    k = node.inputs[1].const_value if len(node.inputs) > 1 and node.inputs[1] is not None else None
    return k is not None and int(k.numpy().reshape(-1)[0]) > TOP_K_LIMIT


def _one_dimensional(node: ir.Node) -> bool:
    return len(dims(node.inputs[1]) or (0, 0, 0)) > 5


def _more_outputs(node: ir.Node) -> bool:
    return any(output.consumers() or output.is_graph_output() for output in node.outputs[1:])


Q_DQ = ("QuantizeLinear", "DequantizeLinear")
FIRST_OUTPUT = ("MaxPool", "LayerNormalization", "Dropout", "BatchNormalization")
CONDITIONS = (
    Rule(Q_DQ, _zero_point, "TensorRT wants symmetric quantization: every zero point 0", "[nv][trt]"),
    Rule(("DequantizeLinear",), _int32_codes, "an int32 bias in Q/DQ is not parsed; keep it float", "[nv]"),
    Rule(Q_DQ, _unsigned, "codes are int8, float8 or int4; unsigned and 16-bit ones are not parsed", "[nv]"),
    Rule(("DequantizeLinear",), _odd_int4_block, "int4 weights come in blocks of 64 or 128", "[nv]"),
    Rule(("TopK",), _large_k, f"K is at most {TOP_K_LIMIT}", "[trt]"),
    Rule(("Conv", "ConvTranspose"), _one_dimensional, "one, two or three spatial axes", "[trt]"),
    Rule(FIRST_OUTPUT, _more_outputs, "the first output only", "[trt]"),
)


@functools.cache
def parsed() -> Mapping[str, tuple[str, ...]]:
    """Operator -> the types its data may have."""
    with (TABLES / "tensorrt-10.csv").open(encoding="utf-8", newline="") as file:
        return {row["operator"]: tuple(row["types"].split("|")) for row in csv.DictReader(file)}


def refusal(node: ir.Node) -> str | None:
    """Why the parser leaves a node to another provider; None when it takes it."""
    if node.domain not in ("", "ai.onnx"):
        return f"TensorRT parses standard operators only, not {node.domain}"
    if node.op_type not in parsed():
        return f"TensorRT's parser has no {node.op_type}"
    for rule in CONDITIONS:
        if node.op_type in rule.operators and rule.applies(node):
            return rule.why
    if _rank_unknown(node):
        return "a tensor without a known rank cannot enter an engine; run shape inference"
    data = type_of(node.inputs[0]) if node.inputs else None
    return f"TensorRT has no {node.op_type} for {data}" if data and data not in parsed()[node.op_type] else None
