"""A server under load, with clients that behave badly beside those that behave well.

    python -m tests.bench.load ARTIFACT [--streams 64] [--seconds 60] [--client openai|sockets]

`compress serve` runs in a process of its own; 64 streams ask it for a minute, each answer is compared with what the
server said to the same prompt alone. Beside them: JSON that is none, prompts that are too long, clients that break off
or are killed, one that reads a byte at a time. Then SIGTERM while answers are under way. What was not as it has to be
is a line under `faults`; figures go to `results/load.json`.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compressor import artifact
from compressor.disk import write_json
from tests.bench import load_client, peers

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).parent / "results" / "load.json"
PATIENCE = 120  # seconds until a server that does not answer is broken
PROMPTS = ("Two cats", "One fox and", "The", "Two foxes sleep. One")
LENGTHS = (8, 40, 120)
GROWTH = 16 << 20  # bytes that an allocator may take after a third of the time; thousands of answers would leak more


@dataclass
class Server:
    """A process that serves, seen from outside."""

    process: subprocess.Popen[bytes]
    port: int
    faults: list[str] = field(default_factory=list)
    resident: list[int] = field(default_factory=list)
    cut: int = 0  # long requests whose answer was lost with the connection

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, body: Any = None, path: str = "/v1/completions") -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        connection.request("GET" if body is None else "POST", path, data)
        response = connection.getresponse()
        content = response.read()
        connection.close()
        return response.status, content

    def gauges(self) -> dict[str, float]:
        lines = [line for line in self.ask(path="/metrics")[1].decode().splitlines() if not line.startswith("#")]
        return {name.removeprefix("compress_"): float(value) for name, value in (line.split() for line in lines)}

    def alone(self, prompt: str, length: int) -> load_client.Case:
        """A case: what the server says when nobody else asks."""
        form = {"model": load_client.MODEL, "prompt": prompt, "max_tokens": length, "temperature": 0}
        return form | {"text": json.loads(self.ask(form)[1])["choices"][0]["text"]}

    def expect(self, what: str, is_so: bool) -> None:
        if not is_so:
            self.faults.append(what)

    def look(self) -> None:
        """Count its blocks and its memory."""
        found = self.gauges()
        whole = found["cache_blocks_used"] + found["cache_blocks_free"] == found["cache_blocks"]
        self.expect("free and used blocks are not all blocks", whole)
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        self.resident.append(pages * os.sysconf("SC_PAGE_SIZE"))


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[Server]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, ROOT / "cli.py", "serve", folder, "--port", str(port), "--name", load_client.MODEL]
    server = Server(subprocess.Popen([*command, "--threads", "1"], cwd=ROOT, stderr=subprocess.DEVNULL), port)
    try:
        until(lambda: is_listening(port))
        yield server
    finally:
        server.process.kill()
        server.process.wait()


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("the server did not get there")
        time.sleep(0.05)


@dataclass(frozen=True)
class Load:
    """Clients in a process of their own."""

    python: str
    client: str
    cases: Path

    def begin(self, server: Server, streams: int, seconds: float) -> subprocess.Popen[bytes]:
        command = [self.python, load_client.__file__, self.client, server.url, self.cases, str(streams), str(seconds)]
        return subprocess.Popen(command, stdout=subprocess.PIPE)

    def end(self, process: subprocess.Popen[bytes]) -> dict[str, Any]:
        output, _ = process.communicate(timeout=PATIENCE * 2)
        found: dict[str, Any] = json.loads(output.splitlines()[-1])
        return found


def run(folder: Path, python: str, client: str, streams: int, seconds: float) -> dict[str, Any]:
    """Everything; `faults` is empty where all was as it has to be."""
    with serving(folder) as server, tempfile.TemporaryDirectory() as place:
        load = Load(python, client, Path(place) / "cases.json")
        load.cases.write_text(json.dumps([server.alone(prompt, length) for prompt in PROMPTS for length in LENGTHS]))
        clients = load.begin(server, streams, seconds)
        while clients.poll() is None:
            server.look()
            misbehave(server, load)
        found = load.end(clients)
        server.expect("a stream failed", found["errors"] == 0)
        server.expect("an answer differs from the one alone", found["wrong"] == 0 and found["answers"] > 0)
        until(lambda: server.gauges()["requests_running"] == 0)
        server.look()
        server.expect("blocks are used and nobody runs", server.gauges()["cache_blocks_used"] == 0)
        after_a_third = max(server.resident[: len(server.resident) // 3 + 1])
        server.expect("its memory grew", server.resident[-1] <= after_a_third + GROWTH)
        drained = drain(server, load)
        memory = {"after a third": after_a_third, "at the end": server.resident[-1]}
        told = {"streams while it drained": drained, "long requests cut off": server.cut, "faults": server.faults}
        return found | {"resident bytes": memory} | told


def misbehave(server: Server, load: Load) -> None:
    """One of each kind of bad client; the good ones go on beside them."""
    reader = threading.Thread(target=read_slowly, args=(server,))
    reader.start()
    form = {"model": load_client.MODEL, "prompt": "One", "max_tokens": 4}
    for body in (b"{half", form | {"prompt": [5] * 9000}):
        server.expect("a wrong request was not told 400", server.ask(body)[0] == 400)
    try:
        server.expect("a long request was not told 413", server.ask(form | {"prompt": "x" * 2**21})[0] == 413)
    except ConnectionError:  # a body that is too long is not read to its end, so the answer may be cut
        server.cut += 1
    break_off(server)
    killed = load.begin(server, streams=4, seconds=60)
    time.sleep(2)  # its streams are under way
    killed.kill()
    killed.communicate()
    reader.join()


def request(length: int) -> bytes:
    form = {"model": load_client.MODEL, "prompt": "One", "max_tokens": length, "stream": True}
    body = json.dumps(form)
    return f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


def break_off(server: Server) -> None:
    """A client that is gone after the first bytes, without a word."""
    with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as client:
        client.sendall(request(400))
        client.recv(10)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


def read_slowly(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as client:
        client.sendall(request(100))
        for _ in range(200):
            client.recv(1)
            time.sleep(0.01)


def drain(server: Server, load: Load) -> dict[str, Any]:
    """SIGTERM under load: what was begun is finished and right, and the process ends by itself."""
    clients = load.begin(server, streams=8, seconds=1)
    until(lambda: server.gauges()["requests_running"] >= 4)
    server.process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):  # told by the next line: it is still there
        server.process.wait(PATIENCE)
    server.expect("SIGTERM did not end it", server.process.poll() in (0, -signal.SIGTERM))
    found = load.end(clients)
    refused = [line for line in found["examples"] if "onne" in line]  # connection: begun after the signal
    server.expect("an answer under way at SIGTERM was lost", found["wrong"] == 0 and found["answers"] >= 4)
    server.expect("an answer under way at SIGTERM broke off", len(refused) == len(found["examples"]))
    return {"answers": found["answers"], "refused": found["errors"]}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--client", choices=("openai", "sockets"), default="openai")
    given = parser.parse_args()
    python = sys.executable if given.client == "sockets" else str(peers.environment(peers.CLIENTS["openai"]))
    found = run(given.artifact, python, given.client, given.streams, given.seconds)
    about = {"artifact": given.artifact.name, "date": time.strftime("%Y-%m-%d"), "client": given.client}
    about |= {"streams": given.streams, "seconds": given.seconds, "load": os.getloadavg()[0]}
    write_json(RESULTS, about | found | {"versions": artifact.versions()})
    print(json.dumps(about | found, indent=2))
    sys.exit(bool(found["faults"]))


if __name__ == "__main__":
    main()
