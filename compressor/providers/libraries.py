"""The shared libraries that a provider needs, what brings each, and whether the provider really loads.

ONNX Runtime falls back to the CPU in silence when a library is missing; here a missing one is a line and exit code 3.
The versions are those that onnxruntime-gpu 1.31 is linked to: CUDA 13, cuDNN 9, TensorRT 10 (a plain
`pip install tensorrt` brings 11, which it cannot load).
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.util
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from compressor.errors import MachineError
from compressor.providers.kernels import CPU, CUDA, PROVIDERS, TENSORRT

WHEEL = "pip install 'onnxruntime-gpu[cuda,cudnn]'"
DRIVER = "an NVIDIA driver for CUDA 13 (580 or newer)"
ENGINE = "pip install 'tensorrt-cu13<11'"
SECONDS_TO_LOAD = 120


class Library(NamedTuple):
    """A library and what brings it."""

    name: str
    brought_by: str


LIBRARIES: dict[str, tuple[Library, ...]] = {
    CPU: (),
    CUDA: (
        Library("libcuda.so.1", DRIVER),
        Library("libcudart.so.13", WHEEL),
        Library("libcublas.so.13", WHEEL),
        Library("libcublasLt.so.13", WHEEL),
        Library("libcurand.so.10", WHEEL),
        Library("libcudnn.so.9", WHEEL),
    ),
    TENSORRT: (Library("libnvinfer.so.10", ENGINE), Library("libnvonnxparser.so.10", ENGINE)),
}
NEEDS = {CPU: (CPU,), CUDA: (CUDA,), TENSORRT: (CUDA, TENSORRT)}

# One Add, in a process of its own: a provider with half of its libraries may take the process down with it.
PROBE = """
import json, sys
import onnx_ir as ir, numpy as np, onnxruntime as ort
from compressor.providers import libraries
libraries.preload()
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


def require(target: str) -> str:
    """The provider of a target, its libraries loaded.

    Raises: MachineError that names each missing library and what brings it.
    """
    provider = PROVIDERS[target]
    if reason := obstacle(provider):
        raise MachineError(f"{target}: {reason}. `compress doctor` says more; --provider cpu runs here")
    preload()
    return provider


@functools.cache
def obstacle(provider: str) -> str | None:
    """Why a provider does not load here, and what mends it; None when it ran one addition."""
    import onnxruntime as ort

    if provider not in ort.get_available_providers():
        return f"onnxruntime {ort.__version__} here was built without {provider}; {WHEEL}"
    if lacking := missing(provider):
        brought = dict.fromkeys(one.brought_by for one in lacking)
        return f"{', '.join(one.name for one in lacking)} cannot be loaded; what brings them: {' and '.join(brought)}"
    return _attempt(provider)


def missing(provider: str) -> list[Library]:
    """The libraries of a provider that cannot be loaded."""
    preload()
    return [one for need in NEEDS[provider] for one in LIBRARIES[need] if not _loads(one.name)]


@functools.cache
def preload() -> None:
    """Load what the pip packages brought: they lie in folders that the linker does not search."""
    import onnxruntime as ort

    if CUDA in ort.get_available_providers() and hasattr(ort, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()):  # what it misses is ours to say, with the remedy
            ort.preload_dlls()
    spec = importlib.util.find_spec("tensorrt_libs")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        for library in LIBRARIES[TENSORRT]:
            _loads(str(Path(place) / library.name))


def _loads(name: str) -> bool:
    try:
        ctypes.CDLL(name, ctypes.RTLD_GLOBAL)
    except OSError:
        return False
    return True


def _attempt(provider: str) -> str | None:
    """Open a session in a subprocess; ONNX Runtime falls back in silence, so ask who ran."""
    command = [sys.executable, "-c", PROBE, provider]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS_TO_LOAD, check=False)
    except subprocess.TimeoutExpired:
        return f"no answer in {SECONDS_TO_LOAD} s; is the device busy or in another process's hands?"
    if ended.returncode == 0 and ended.stdout.strip().splitlines()[-1:] == [json.dumps(provider)]:
        return None
    said = [line for line in ended.stderr.splitlines() if line.strip()]
    return f"its libraries load and a session on it does not: {said[-1].strip()[:300] if said else 'no message'}"
