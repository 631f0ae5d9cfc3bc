"""What an artifact holds, read off its files: interface, operators, bytes by kind, provenance, damage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import onnx_ir as ir

from compressor.artifact import Artifact
from compressor.graph.decoder import LAYER_OF_CACHE
from compressor.graph.session import graph_nbytes, load_model

# Operators that read codes, and the place of the input that holds them; scales and zero points are the rest.
CODES = {
    "ConvInteger": 1,
    "DequantizeLinear": 0,
    "GatherBlockQuantized": 0,
    "MatMulBnb4": 1,
    "MatMulInteger": 1,
    "MatMulNBits": 1,
    "QLinearConv": 3,
    "QLinearMatMul": 3,
}
QUANTIZED, FLOATS = "quantized codes", "floats"


def inspect(artifact: Artifact) -> dict[str, Any]:
    """Facts for a reader; `graphs` holds those of each graph by its name, where there are several.

    `damaged` lists the files whose bytes are no longer those of the manifest.
    """
    graphs = {path.name: _graph(path) for path in artifact.models}
    return {
        "artifact": str(artifact.directory),
        "stage": artifact.stage,
        "key": artifact.key,
        **({"graphs": graphs} if len(graphs) > 1 else graphs[artifact.models[0].name]),
        "damaged": artifact.damaged(),
    }


def _graph(path: Path) -> dict[str, Any]:
    model = load_model(path)
    types: Counter[str] = Counter()
    for tensor in weights(model).values():
        types[str(tensor.dtype)] += tensor.nbytes
    counted = operators(model)
    return {
        "opsets": {domain or "ai.onnx": version for domain, version in model.opset_imports.items()},
        "ir version": model.ir_version,
        "bytes": graph_nbytes(path),
        "weights, bytes by type": dict(types.most_common()),
        "weights, bytes by kind": _kinds(model),
        "quantized share of weight entries": _quantized_share(model),
        "inputs": interface(model.graph.inputs),
        "outputs": interface(model.graph.outputs),
        "dynamic axes": _dynamic_axes(model.graph.inputs),
        "nodes": sum(counted.values()),
        "operators by domain": _by_domain(model),
        "operators": counted,
    }


def weights(model: ir.Model) -> dict[str, ir.TensorProtocol]:
    """The initializers of all graphs by name."""
    return {str(value.name): tensor for value, tensor in _initializers(model)}


def operators(model: ir.Model) -> dict[str, int]:
    """How often each operator stands in the graph and in the graphs inside it, the most frequent first."""
    return dict(Counter(_operator(node) for node in model.graph.all_nodes()).most_common())


def interface(values: Iterable[ir.Value]) -> dict[str, str]:
    """Name -> type[shape]; a cache's many alike entries are one line."""
    lines: dict[str, str] = {}
    for value in values:
        lines[_of_any_layer(value)] = f"{value.dtype}[{', '.join(str(size) for size in value.shape or ())}]"
    return lines


def _of_any_layer(value: ir.Value) -> str:
    """past_key_values.3.key -> past_key_values.N.key"""
    return LAYER_OF_CACHE.sub("N", str(value.name))


def _operator(node: ir.Node) -> str:
    return f"{node.domain}.{node.op_type}" if node.domain else node.op_type


def _by_domain(model: ir.Model) -> dict[str, int]:
    return dict(Counter(node.domain or "ai.onnx" for node in model.graph.all_nodes()).most_common())


def _dynamic_axes(inputs: Iterable[ir.Value]) -> dict[str, str]:
    """The name of a size -> the inputs' axes that bear it; `?` where it has none."""
    found: dict[str, list[str]] = {}
    for value in inputs:
        for axis, size in enumerate(value.shape or ()):
            if not isinstance(size, int):
                found.setdefault(size.value or "?", []).append(f"{_of_any_layer(value)}[{axis}]")
    return {name: ", ".join(dict.fromkeys(places)) for name, places in found.items()}


def _initializers(model: ir.Model) -> list[tuple[ir.Value, ir.TensorProtocol]]:
    values = (value for graph in model.graphs() for value in graph.initializers.values())
    return [(value, value.const_value) for value in values if value.const_value is not None]


def _kinds(model: ir.Model) -> dict[str, int]:
    """Codes of quantized weights, their scales and zero points, floats, and whole numbers: shapes, indices, tables."""
    kinds: Counter[str] = Counter()
    for value, tensor in _initializers(model):
        kinds[_kind(value, tensor)] += tensor.nbytes
    return dict(kinds.most_common())


def _kind(value: ir.Value, tensor: ir.TensorProtocol) -> str:
    read_as_codes = [place == CODES[node.op_type] for node, place in value.uses() if node.op_type in CODES]
    if any(read_as_codes):
        return QUANTIZED
    if read_as_codes:
        return "scales and zero points"
    return FLOATS if tensor.dtype.is_floating_point() else "whole numbers"


def _quantized_share(model: ir.Model) -> float:
    """Of the entries of weights: quantized ones over these and the floats of two axes and more."""
    entries: Counter[str] = Counter()
    for value, tensor in _initializers(model):
        kind = _kind(value, tensor)
        if kind == QUANTIZED or (kind == FLOATS and len(tensor.shape) > 1):
            entries[kind] += _entries(value, tensor)
    return entries[QUANTIZED] / (entries.total() or 1)


def _entries(value: ir.Value, tensor: ir.TensorProtocol) -> int:
    """MatMulNBits packs several codes into a byte."""
    packed = next((node for node in value.consumers() if node.op_type == "MatMulNBits"), None)
    if packed is None:
        return int(tensor.size)
    return int(packed.attributes["K"].as_int() * packed.attributes["N"].as_int())
