"""Where ONNX Runtime has put each node and which provider then ran it: asked of sessions, not predicted.

assigned    `get_provider_graph_assignment_info` after the basic optimizations, which is when nodes are placed
copies      Memcpy nodes of the graph that this session wrote
executed    the profile of one run with all optimizations
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from compressor.graph.decoder import Feeds
from compressor.graph.session import Backend, load_model, session_options, start
from compressor.providers import cost, graph_types

COPY_OPERATORS = ("MemcpyToHost", "MemcpyFromHost")


@dataclass(frozen=True)
class Assignment:
    """Nodes and FLOPs by provider, copies a run, and nodes that are not on the first provider, with their operator."""

    nodes: Mapping[str, int]
    flops: Mapping[str, int]
    copies: int
    elsewhere: tuple[str, ...]


def assignment(path: Path, backend: Backend) -> Assignment:
    """Open a session and read where it put the nodes."""
    import onnxruntime as ort

    options = session_options("served")
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "assigned.onnx"
        options.optimized_model_filepath = str(written)
        # Weights stay where they are: the written graph is read for its nodes alone.
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "weights.data")
        session = start(path, options, backend)
        parts = session.get_provider_graph_assignment_info()
        pairs = [(part.ep_name, node) for part in parts for node in part.get_nodes()]
        flops, copies = _weighed(load_model(written))
    return Assignment(
        Counter(provider for provider, _ in pairs),
        _sum((provider, flops.get(node.name, 0)) for provider, node in pairs),
        copies,
        tuple(f"{node.op_type} '{node.name}'" for provider, node in pairs if provider != backend.name),
    )


def executed(path: Path, backend: Backend, feeds: Feeds) -> Counter[str]:
    """Provider -> kernels it ran in one call, copies left out."""
    with tempfile.TemporaryDirectory() as folder:
        options = session_options("served")
        options.enable_profiling = True
        options.profile_file_prefix = f"{folder}/run"
        session = start(path, options, backend)
        session.run(None, feeds)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    kernels = [one["args"] for one in events if one.get("cat") == "Node" and "provider" in one.get("args", {})]
    return Counter(one["provider"] for one in kernels if one.get("op_name") not in COPY_OPERATORS)


def _weighed(model: ir.Model) -> tuple[dict[str, int], int]:
    """FLOPs by name of node, and the number of copies."""
    nodes = list(graph_types.prepared(model).graph.all_nodes())
    copies = sum(node.op_type in COPY_OPERATORS for node in nodes)
    return {str(node.name): cost.flops(node) for node in nodes}, copies


def _sum(pairs: Iterator[tuple[str, int]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for name, number in pairs:
        total[name] += number
    return total
