"""A server that is told to end: what it has begun it finishes, in a bounded time, and nothing keeps it longer."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.serve.client import PATIENCE, UNENDING, Client, request_bytes, until
from tests.serve.conftest import Subject

pytest.importorskip("uvicorn", reason="the server is not installed; `pip install .[serve]`")
pytest.importorskip("onnxruntime_genai", reason="onnxruntime-genai is not installed; `pip install .[genai]`")


@contextlib.contextmanager
def process_at(folder: Path, *options: str) -> Iterator[tuple[Client, subprocess.Popen[str]]]:
    """`compress serve` in a process of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        client = Client(free.getsockname()[1])
    command = [sys.executable, ROOT / "cli.py", "serve", folder, "--port", str(client.port), "--name", "tiny"]
    server = subprocess.Popen([*command, "--threads", "1", *options], stderr=subprocess.PIPE, text=True, cwd=ROOT)
    assert server.stderr is not None
    assert "http://127.0.0.1" in server.stderr.readline()
    until(lambda: _listens(client.port))
    yield client, server
    server.kill()
    server.wait(PATIENCE)


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
def test_told_to_end_it_finishes_what_was_begun(end: signal.Signals, tiny: Callable[[int | None], Subject]) -> None:
    with process_at(tiny(4).folder) as (client, server):
        with ThreadPoolExecutor(1) as pool:
            streamed = pool.submit(client.stream, **UNENDING)
            until(lambda: client.gauge("requests_running") > 0)
            server.send_signal(end)
            chunks = streamed.result(PATIENCE)
        assert chunks[-1]["choices"][0]["finish_reason"] in ("length", "stop")
        assert server.wait(PATIENCE) == (0 if end == signal.SIGINT else -end)
        assert not _listens(client.port)


def test_a_client_that_stalls_does_not_keep_it(tiny: Callable[[int | None], Subject]) -> None:
    with process_at(tiny(4).folder, "--drain-seconds", "1") as (client, server), client.stalled():
        until(lambda: client.ask("/health")[0] == 200)
        server.send_signal(signal.SIGTERM)
        assert server.wait(PATIENCE / 3) in (0, -signal.SIGTERM)


def test_what_does_not_end_in_time_is_cut_off_without_a_traceback(tiny: Callable[[int | None], Subject]) -> None:
    """One place for forty answers."""
    with process_at(tiny(4).folder, "--drain-seconds", "1", "--max-batch", "1") as (client, server):
        asked = [request_bytes(**UNENDING, stream=stream) for stream in (True, False)]
        readers = [socket.create_connection(("127.0.0.1", client.port), PATIENCE) for _ in range(40)]
        for index, reader in enumerate(readers):
            reader.sendall(asked[index % 2])
        until(lambda: client.gauge("requests_waiting") > 30)
        server.send_signal(signal.SIGTERM)
        assert server.wait(PATIENCE / 3) in (0, -signal.SIGTERM)
        assert server.stderr is not None
        said = server.stderr.read()
        for reader in readers:
            reader.close()
    assert "running task(s), timeout graceful shutdown exceeded" in said
    assert len(said.splitlines()) == 1


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
