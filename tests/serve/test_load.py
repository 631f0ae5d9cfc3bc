"""`tests/bench/load.py` for a few seconds: 64 streams, bad clients beside them, and SIGTERM at the end."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

pytest.importorskip("uvicorn", reason="the server is not installed; `pip install .[serve]`")
pytest.importorskip("onnxruntime_genai", reason="onnxruntime-genai is not installed; `pip install .[genai]`")

from tests.bench import load
from tests.serve.conftest import Subject


def test_a_server_under_load_answers_right_and_stays_whole(tiny: Callable[[int | None], Subject]) -> None:
    found = load.run(tiny(4).folder, sys.executable, "sockets", streams=64, seconds=3)
    assert found["faults"] == []
    assert found["answers"] > 64
