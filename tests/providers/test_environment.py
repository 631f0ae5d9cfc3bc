"""The doctor names what is wrong, and every problem ends with what to run."""

from __future__ import annotations

import pytest

from compressor.providers import environment, libraries
from compressor.providers.kernels import CPU, CUDA

PLENTY = (10**11, 10**11)


def problems(providers: dict[str, str], memory: tuple[int, int] = PLENTY, disk: int = 10**12) -> list[str]:
    return list(environment._problems(providers, memory, disk))


@pytest.fixture
def versions(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What is installed; empty, and a compiler is there and a GPU is not."""
    installed: dict[str, str] = {}
    monkeypatch.setattr(environment, "version", installed.get)
    monkeypatch.setattr(environment.shutil, "which", lambda tool: None if tool == "nvidia-smi" else f"/usr/bin/{tool}")
    return installed


def test_a_whole_machine_without_a_gpu_has_no_problem(versions: dict[str, str]) -> None:
    assert problems({CPU: "works", CUDA: "libcuda.so.1 cannot be loaded"}) == []


def test_a_gpu_that_cannot_be_used_is_one(versions: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_device", lambda: "NVIDIA H100, 580.1, 81559 MiB, 9.0")
    (line,) = problems({CPU: "works", CUDA: f"libcudnn.so.9 cannot be loaded; {libraries.WHEEL}"})
    assert line == f"{CUDA} does not load: libcudnn.so.9 cannot be loaded; {libraries.WHEEL}"
    (line,) = problems({CPU: "works"})
    assert line.endswith(libraries.WHEEL)


@pytest.mark.parametrize(
    ("installed", "words"),
    [
        ({"tensorrt": "11.4.0"}, ("TensorRT 11.4.0 is too new", libraries.ENGINE)),
        ({"onnxruntime": "1.31.1", "onnxruntime-gpu": "1.31.1"}, ("lie over each other", "pip uninstall -y")),
    ],
)
def test_versions_that_do_not_fit(versions: dict[str, str], installed: dict[str, str], words: tuple[str, ...]) -> None:
    versions.update(installed)
    (line,) = problems({CPU: "works"})
    assert all(word in line for word in words)


def test_what_runs_short(versions: dict[str, str]) -> None:
    memory, disk = problems({CPU: "works"}, memory=(10**9, 10**10), disk=10**9)
    assert memory.startswith("1.0 GB of memory are free: ")
    assert disk.startswith("1.0 GB of disk are free here: choose another -o")


def test_a_cpu_provider_that_fails_is_always_a_problem(versions: dict[str, str]) -> None:
    assert problems({CPU: "no answer"}) == [f"{CPU} does not load: no answer"]
