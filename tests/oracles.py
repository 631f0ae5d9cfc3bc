"""Engines in environments of their own, asked what they make of our numbers; absent, their tests skip and say so."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench import peers


def python_of(name: str) -> Path:
    """The python that has the engine."""
    python = peers.installed(name)
    if python is None:
        pytest.skip(f"{name} has no environment: python -m tests.bench.peers makes it")
    return python
