"""What this machine has: versions, providers that really load and what mends the others, memory, disk."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from compressor.artifact import versions

# What brings the libraries of a provider; ONNX Runtime 1.31 is built for CUDA 13, cuDNN 9 and TensorRT 10.
REMEDY = {
    "CUDAExecutionProvider": "pip install 'onnxruntime-gpu[cuda,cudnn]' on a machine with an NVIDIA driver for CUDA 13",
    "TensorrtExecutionProvider": "pip install 'tensorrt-cu13<11', and what CUDAExecutionProvider needs",
}
SECONDS_TO_LOAD = 120

# One Add, in a process of its own: a provider with half of its libraries may take the process down with it.
PROBE = """
import json, sys
import onnx_ir as ir, numpy as np, onnxruntime as ort
x = ir.Value(name="x", shape=ir.Shape([1]), type=ir.TensorType(ir.DataType.FLOAT))
add = ir.node("Add", [x, x])
add.outputs[0].name = "y"
model = ir.Model(ir.Graph([x], add.outputs, nodes=[add], opset_imports={"": 21}, name="probe"), ir_version=10)
options = ort.SessionOptions()
options.log_severity_level = 4
content = ir.to_proto(model).SerializeToString()
session = ort.InferenceSession(content, options, providers=[sys.argv[1]])
session.run(None, {"x": np.ones(1, np.float32)})
print(json.dumps(session.get_providers()[0]))
"""


def examine() -> dict[str, Any]:
    """Facts for `compress doctor`; a provider is `works` or the reason and the remedy."""
    return {
        "python": f"{platform.python_version()} on {platform.platform()}",
        "versions": versions(),
        "cores": os.cpu_count(),
        "matrix units": _matrix_units(),
        "memory": _memory(),
        "disk free here": f"{shutil.disk_usage('.').free / 1e9:.1f} GB",
        "compiler": shutil.which("cc") or shutil.which("cl") or "none",
        "providers": {name: _try(name) for name in _available()},
    }


def _available() -> list[str]:
    import onnxruntime as ort

    found: list[str] = ort.get_available_providers()
    return found


def _try(provider: str) -> str:
    """Open a session on a provider in a subprocess; ONNX Runtime falls back in silence, so ask who ran."""
    command = [sys.executable, "-c", PROBE, provider]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS_TO_LOAD, check=False)
    except subprocess.TimeoutExpired:
        return f"no answer in {SECONDS_TO_LOAD} s. {REMEDY.get(provider, '')}".strip()
    answer = result.stdout.strip().splitlines()[-1:]
    if result.returncode == 0 and answer == [json.dumps(provider)]:
        return "works"
    reason = "its libraries did not load" if result.returncode == 0 else f"it ended with code {result.returncode}"
    return f"does not load: {reason}. {REMEDY.get(provider, '')}".strip()


def _matrix_units() -> str:
    import torch

    if torch.cuda.is_available():
        return f"CUDA: {torch.cuda.get_device_name(0)}"
    return "AMX bfloat16" if torch.cpu._is_amx_tile_supported() else "none; products run in float32"


def _memory() -> str:
    """Total and available memory, where the system says so."""
    table = Path("/proc/meminfo")
    if not table.is_file():
        return "not known on this system"
    rows = dict(line.split(":", 1) for line in table.read_text(encoding="utf-8").splitlines() if ":" in line)
    total, free = (int(rows[name].split()[0]) / 1e6 for name in ("MemTotal", "MemAvailable"))
    return f"{free:.1f} GB available of {total:.1f} GB"
