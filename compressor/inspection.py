"""What an artifact holds, read off its files: interface, operators, bytes by kind, provenance, damage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir

from compressor.artifact import Artifact
from compressor.graph import kinds
from compressor.graph.decoder import LAYER_OF_CACHE
from compressor.graph.kinds import CODES, FLOATS, OUTLIERS, Constant
from compressor.graph.session import graph_nbytes, load_model


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
    constants, counted = kinds.constants(model), operators(model)
    return {
        "opsets": {domain or "ai.onnx": version for domain, version in model.opset_imports.items()},
        "ir version": model.ir_version,
        "bytes": graph_nbytes(path),
        "weights, bytes by type": _bytes_by(constants, lambda one: str(one.tensor.dtype)),
        "weights, bytes by kind": _bytes_by(constants, lambda one: one.kind),
        "quantized share of weight entries": _quantized_share(constants),
        "inputs": interface(model.graph.inputs),
        "outputs": interface(model.graph.outputs),
        "dynamic axes": _dynamic_axes(model.graph.inputs),
        "nodes": sum(counted.values()),
        "operators by domain": _by_domain(model),
        "operators": counted,
    }


def weights(model: ir.Model) -> dict[str, ir.TensorProtocol]:
    """The initializers of all graphs by name."""
    values = (value for graph in model.graphs() for value in graph.initializers.values())
    return {str(value.name): value.const_value for value in values if value.const_value is not None}


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


def _bytes_by(constants: Sequence[Constant], quality: Callable[[Constant], str]) -> dict[str, int]:
    sizes: Counter[str] = Counter()
    for one in constants:
        sizes[quality(one)] += one.tensor.nbytes
    return dict(sizes.most_common())


def _quantized_share(constants: Sequence[Constant]) -> float:
    """Of the weights' numbers: those that are codes, over these and the floats of two axes and more."""
    numbers: Counter[str] = Counter()
    for one in constants:
        numbers[one.kind] += one.entries if one.kind != FLOATS or len(one.tensor.shape) > 1 else 0
    codes = numbers[CODES] - numbers[OUTLIERS]  # an outlier is a float; the codes have a row of zeros in its place
    return codes / (numbers[CODES] + numbers[FLOATS] or 1)
