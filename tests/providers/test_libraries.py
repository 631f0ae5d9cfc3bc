"""A provider that does not load is a line with the library and what brings it, and exit code 3: never the CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from compressor.errors import MachineError
from compressor.graph.session import Backend, open_session
from compressor.providers import libraries, stubs
from compressor.providers.kernels import CPU, CUDA, TENSORRT
from tests import graphs
from tests.conftest import FirstRun, Outcome

absent = pytest.mark.skipif(libraries.obstacle(CUDA) is None, reason="a CUDA device is at hand")


@absent
@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("cuda", ("cannot be loaded; ", "onnxruntime-gpu[cuda,cudnn]", "an NVIDIA driver for CUDA 13")),
        ("tensorrt", ("libnvinfer.so.10", "pip install 'tensorrt-cu13<11'")),
    ],
)
def test_a_missing_provider_is_3_and_names_library_and_package(
    target: str, words: tuple[str, ...], first: FirstRun, compress: Callable[..., Outcome]
) -> None:
    if stubs.available():
        words = ("built without", "onnxruntime-gpu[cuda,cudnn]")
    ended = compress("validate", first.run.output, "--against", first.run.stage("export"), "--provider", target)
    assert (ended.code, ended.out) == (3, "")
    (line,) = ended.err.splitlines()
    assert line.startswith(f"compress: {target}: ")
    assert all(word in line for word in words)


@absent
def test_a_session_that_onnxruntime_moves_to_the_cpu_is_refused() -> None:
    model = graphs.build("(float[2] x) => (float[2] y) { y = Neg(x) }")
    with pytest.raises(MachineError, match=CUDA):
        open_session(model, "served", backend=Backend(((CUDA, {}),)))


def test_the_cpu_needs_nothing_and_runs() -> None:
    assert libraries.require("cpu") == CPU
    assert libraries.missing(CPU) == []


def test_cuda_loads_where_its_libraries_are(tmp_path: Path) -> None:
    """Over the empty libraries, whose one addition is wrong and yet runs; TensorRT's own are left out, and named."""
    if reason := stubs.available():
        pytest.skip(reason)
    environment = {**os.environ, **stubs.build(tmp_path)}
    (tmp_path / "libnvinfer.so.10").unlink()
    code = f"""
from compressor.providers import libraries
print(libraries.obstacle("{CUDA}"))
print([one.name for one in libraries.missing("{TENSORRT}")])
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert ended.stdout.splitlines() == ["None", "['libnvinfer.so.10']"]
