"""The server as a client sees it: HTTP over a socket, and answers that take as long as they are allowed to."""

from __future__ import annotations

import http.client
import json
import re
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

PROMPT = {"model": "tiny", "prompt": "Two cats", "max_tokens": 12, "temperature": 0}
PATIENCE = 60  # seconds; only a failing test waits that long


@dataclass(frozen=True)
class Client:
    """HTTP as a client speaks it."""

    port: int

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)

    def ask(self, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        connection = self.connect()
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        connection.request("GET" if body is None else "POST", path, data, headers)
        response = connection.getresponse()
        content = response.read()
        connection.close()
        return response.status, content.decode() if path == "/metrics" else json.loads(content)

    def stalled(self) -> socket.socket:
        """A client that announces a body and does not send it."""
        client = socket.create_connection(("127.0.0.1", self.port), PATIENCE)
        client.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        return client

    def complete(self, **changes: Any) -> tuple[int, Any]:
        return self.ask("/v1/completions", PROMPT | changes)

    def stream(self, path: str = "/v1/completions", **changes: Any) -> list[dict[str, Any]]:
        connection = self.connect()
        connection.request("POST", path, json.dumps(PROMPT | {"stream": True} | changes))
        lines = connection.getresponse().read().decode().split("\n\n")
        connection.close()
        assert lines[-2:] == ["data: [DONE]", ""]
        return [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]

    def gauge(self, name: str) -> float:
        lines = self.ask("/metrics")[1].splitlines()
        return next(float(line.split()[-1]) for line in lines if line.startswith(f"compress_{name} "))

    def cancelled(self) -> int:
        return int("".join(re.findall(r'requests_total{finish="cancelled"} (\d+)', self.ask("/metrics")[1])) or 0)


def text_of(chunks: list[dict[str, Any]]) -> str:
    return "".join(chunk["choices"][0]["text"] for chunk in chunks if chunk["choices"])


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.01)


def request_bytes(**changes: Any) -> bytes:
    body = json.dumps(PROMPT | {"stream": True} | changes)
    return f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


def held_to(schema: dict[str, Any]) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"schema": schema}}}


# An answer that its schema does not let end before its last token.
UNENDING = held_to({"type": "array", "items": {"type": "integer"}, "minItems": 480}) | {"max_tokens": 480}
