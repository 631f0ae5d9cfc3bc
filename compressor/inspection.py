"""What an artifact holds, read off its files: interface, operators, bytes by kind, provenance, damage."""

from __future__ import annotations

from collections import Counter
from typing import Any

import onnx_ir as ir

from compressor.artifact import Artifact
from compressor.session import graph_nbytes, load_model


def inspect(artifact: Artifact) -> dict[str, Any]:
    """Facts for a reader. `damaged` lists the files whose bytes are no longer those of the manifest."""
    model = load_model(artifact.model)
    kinds: Counter[str] = Counter()
    for value in model.graph.initializers.values():
        if value.const_value is not None:
            kinds[str(value.const_value.dtype)] += value.const_value.nbytes
    operators = Counter(_operator(node) for node in model.graph.all_nodes())
    return {
        "artifact": str(artifact.directory),
        "stage": artifact.stage,
        "key": artifact.key,
        "opsets": {domain or "ai.onnx": version for domain, version in model.opset_imports.items()},
        "ir version": model.ir_version,
        "bytes": graph_nbytes(artifact.model),
        "weights, bytes by type": dict(kinds.most_common()),
        "inputs": _interface(model.graph.inputs),
        "outputs": _interface(model.graph.outputs),
        "nodes": sum(operators.values()),
        "operators": dict(operators.most_common()),
        "damaged": artifact.damaged(),
    }


def _operator(node: ir.Node) -> str:
    return f"{node.domain}.{node.op_type}" if node.domain else node.op_type


def _interface(values: Any) -> dict[str, str]:
    """Name -> type[shape]; a cache's many alike entries are one line."""
    lines: dict[str, str] = {}
    for value in values:
        parts = str(value.name).split(".")
        name = ".".join("N" if part.isdigit() else part for part in parts)
        lines[name] = f"{value.dtype}[{', '.join(str(size) for size in value.shape or ())}]"
    return lines
