"""`compress doctor`: what this machine has, what is wrong with it, and the command that mends it.

facts      versions, providers that really load (each tried in a process of its own), device, driver, CUDA, cuDNN,
           TensorRT, memory, disk, compiler
problems   one line each: what is wrong, what it costs, what to run
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from compressor.artifact import versions
from compressor.installed import version
from compressor.providers import device, kernels, libraries
from compressor.providers.kernels import CUDA, TENSORRT

WORKS = "works"
LOW_MEMORY, LOW_DISK = 4e9, 10e9  # bytes: what quantizing a decoder of 0.5 B parameters holds, and leaves behind
# Distributions whose presence and version decide whether a device's providers load.
DEVICE_PACKAGES = ("nvidia-cuda-runtime", "nvidia-cublas", "nvidia-cudnn-cu13", "tensorrt-cu13", "tensorrt")
BOTH = ("onnxruntime", "onnxruntime-gpu")


def examine() -> dict[str, Any]:
    """Facts and problems; a provider is `works` or the reason and the remedy."""
    providers = {name: libraries.obstacle(name) or WORKS for name in _known()}
    free_memory, disk = memory(), shutil.disk_usage(".").free
    facts = {
        "python": f"{platform.python_version()} on {platform.platform()}",
        "versions": versions(),
        "kernel tables": ", ".join(kernels.versions()),
        "cores": os.cpu_count(),
        "matrix units": _matrix_units(),
        "memory": _memory_line(free_memory),
        "disk free here": f"{disk / 1e9:.1f} GB",
        "compiler": shutil.which("cc") or shutil.which("cl") or "none",
        "device": _device(),
        "device packages": {name: found for name in DEVICE_PACKAGES if (found := version(name))} or "none",
        "providers": providers,
    }
    return facts | {"problems": list(_problems(providers, free_memory, disk)) or ["none"]}


def _known() -> list[str]:
    """The providers of this wheel that are ours to use; other ones a wheel may carry are not asked for."""
    import onnxruntime as ort

    found: list[str] = ort.get_available_providers()
    return [name for name in found if name in libraries.LIBRARIES]


def _problems(providers: dict[str, str], memory: tuple[int, int] | None, disk: int) -> Iterator[str]:
    """What is wrong; a machine without a GPU is no problem, a GPU that cannot be used is one."""
    has_device = _device() != "none"
    for name, state in providers.items():
        if state != WORKS and (has_device or name not in (CUDA, TENSORRT)):
            yield f"{name} does not load: {state}"
    if has_device and CUDA not in providers:
        yield f"there is a GPU, and this onnxruntime has no {CUDA}: {libraries.WHEEL}"
    if all(version(name) for name in BOTH):
        yield (
            "onnxruntime and onnxruntime-gpu lie over each other: pip uninstall -y onnxruntime onnxruntime-gpu && "
            f"{libraries.WHEEL}"
        )
    newer = version("tensorrt") or version("tensorrt-cu13") or "10"
    if int(newer.split(".")[0]) > 10:
        yield f"TensorRT {newer} is too new for onnxruntime 1.31, which loads 10: {libraries.ENGINE}"
    if memory and memory[0] < LOW_MEMORY:
        yield f"{memory[0] / 1e9:.1f} GB of memory are free: close other programs, or set calibration.samples lower"
    if disk < LOW_DISK:
        yield f"{disk / 1e9:.1f} GB of disk are free here: choose another -o, or delete old *.stages folders"
    if shutil.which("cc") is None and shutil.which("cl") is None:
        yield "no C compiler: `make kernels` and the placement tests need one: apt-get install build-essential"


def _device() -> str:
    """Name, driver and memory of the first GPU, as the driver's own tool says; none without one."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return "none"
    command = [tool, "--query-gpu=name,driver_version,memory.total,compute_cap", "--format=csv,noheader"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "nvidia-smi does not answer"
    lines = said.stdout.strip().splitlines()
    free = device.memory()
    return lines[0] + (f", {free[0] / 1e9:.1f} GB free" if free else "") if lines else "none"


def _matrix_units() -> str:
    import torch

    if torch.cuda.is_available():
        return f"CUDA: {torch.cuda.get_device_name(0)}"
    return "AMX bfloat16" if torch.cpu._is_amx_tile_supported() else "none; products run in float32"


def memory() -> tuple[int, int] | None:
    """Available and total bytes, where the system says so."""
    table = Path("/proc/meminfo")
    if not table.is_file():
        return None
    rows = dict(line.split(":", 1) for line in table.read_text(encoding="utf-8").splitlines() if ":" in line)
    available, total = (int(rows[name].split()[0]) * 1024 for name in ("MemAvailable", "MemTotal"))
    return available, total


def _memory_line(memory: tuple[int, int] | None) -> str:
    return "not known on this system" if memory is None else "{:.1f} GB available of {:.1f} GB".format(
        *(one / 1e9 for one in memory))  # fmt: skip
