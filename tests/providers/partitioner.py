"""ONNX Runtime's own placement of a graph, asked over the empty CUDA libraries of `compressor.providers.stubs`."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import onnx
import pytest

from compressor.providers import stubs
from compressor.providers.kernels import PROVIDERS

# One process for many files. Optimizations off: the graph as written is what gets placed. A session that cannot be
# opened answers with its error.
ASK = """
import json, sys
import onnxruntime as ort
provider, folder, *files = sys.argv[1:]
for at, file in enumerate(files):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    options.optimized_model_filepath = f"{folder}/{at}.onnx"
    try:
        session = ort.InferenceSession(file, options, providers=[provider])
        parts = session.get_provider_graph_assignment_info()
        answer = [[part.ep_name, node.op_type] for part in parts for node in part.get_nodes()]
    except Exception as error:
        answer = str(error)
    print(json.dumps(answer), flush=True)
"""

Answer = tuple[Counter[tuple[str, str]], Counter[str]] | str  # (provider, operator) -> nodes, copies by direction


def place(files: list[Path], target: str) -> list[Answer]:
    """What ONNX Runtime does with each file, or the error it gave."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, **(_stubbed() if target != "cpu" else {})}
        command = [sys.executable, "-c", ASK, PROVIDERS[target], folder, *map(str, files)]
        ended = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        answers = [json.loads(line) for line in ended.stdout.splitlines() if line.startswith(("[", '"'))]
        assert len(answers) == len(files), ended.stderr[-2000:]
        return [_answer(one, Path(folder) / f"{at}.onnx") for at, one in enumerate(answers)]


@functools.cache
def _stubbed() -> dict[str, str]:
    if reason := stubs.available():
        pytest.skip(reason)
    return stubs.build(Path(tempfile.gettempdir()) / f"compress-stubs-{os.getpid()}")


def _answer(said: Any, written: Path) -> Answer:
    if isinstance(said, str):
        return said
    graph = onnx.load(written, load_external_data=False).graph
    copies = Counter(node.op_type for node in _nodes(graph) if node.op_type.startswith("Memcpy"))
    return Counter((provider, operator) for provider, operator in said), copies


def _nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    bodies = [attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g")]
    return [*graph.node, *(node for body in bodies for node in _nodes(body))]
