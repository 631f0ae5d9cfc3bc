"""Streams against a server, each answer compared with what it has to be.

    python load_client.py openai|sockets BASE_URL CASES.json STREAMS SECONDS
    ->  the last line: {"answers": .., "tokens": .., "errors": [..], "wrong": [..], "first_token_seconds": {..}, ..}

CASES: [{"prompt": .., "max_tokens": .., "text": ..}, ..]. `openai` is their client, in an environment that has it;
`sockets` needs nothing but Python. A stream that has ended begins the next case until the seconds are over.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

MODEL = "tiny"
PAUSE = 0.1  # seconds, before a client that was refused asks again
LISTED = 5  # errors that a report repeats
Case = dict[str, Any]
Stream = Callable[[Case], AsyncIterator[str]]


@dataclass
class Found:
    """What came of all streams."""

    answers: int = 0
    tokens: int = 0
    errors: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    first: list[float] = field(default_factory=list)  # seconds to the first piece
    each: list[float] = field(default_factory=list)  # seconds a token after it, mean of an answer

    def report(self, seconds: float) -> dict[str, Any]:
        return {
            "answers": self.answers,
            "tokens/s": round(self.tokens / seconds, 1),
            "errors": len(self.errors),
            "wrong": len(self.wrong),
            "examples": [*self.errors[:LISTED], *self.wrong[:LISTED]],
            "first_token_seconds": spread(self.first),
            "seconds_a_token": spread(self.each),
        }


def spread(values: list[float]) -> dict[str, float]:
    ordered = sorted(values) or [0.0]
    return {f"p{part}": round(ordered[len(ordered) * part // 100], 4) for part in (50, 95, 99)}


def by_openai(url: str) -> Stream:
    from openai import AsyncOpenAI

    client = AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=120)

    async def stream(case: Case) -> AsyncIterator[str]:
        wanted = {"prompt": case["prompt"], "max_tokens": case["max_tokens"]}
        async for chunk in await client.completions.create(model=MODEL, temperature=0, stream=True, **wanted):
            yield chunk.choices[0].text

    return stream


def by_sockets(url: str) -> Stream:
    where = urlsplit(url)

    async def stream(case: Case) -> AsyncIterator[str]:
        wanted = {"prompt": case["prompt"], "max_tokens": case["max_tokens"], "model": MODEL}
        body = json.dumps(wanted | {"temperature": 0, "stream": True}).encode()
        reader, writer = await asyncio.open_connection(where.hostname, where.port)
        writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: ")
        writer.write(str(len(body)).encode() + b"\r\n\r\n" + body)
        status = (await reader.readline()).split()[1]
        if status != b"200":
            raise OSError(f"status {status.decode()}")
        done = False
        async for line in reader:  # sizes of chunks and headers are lines, too
            if line.startswith(b"data: {"):
                yield json.loads(line[6:])["choices"][0]["text"]
            done |= line.startswith(b"data: [DONE]")
        writer.close()
        if not done:
            raise OSError("the stream broke off")

    return stream


async def run(stream: Stream, cases: list[Case], streams: int, seconds: float) -> Found:
    found, end = Found(), time.monotonic() + seconds

    async def one(number: int) -> None:
        order = random.Random(number)
        while time.monotonic() < end:
            await answer(stream, order.choice(cases), found)

    await asyncio.gather(*(one(number) for number in range(streams)))
    return found


async def answer(stream: Stream, case: Case, found: Found) -> None:
    begun, pieces, first = time.monotonic(), [], None
    try:
        async for piece in stream(case):
            first = time.monotonic() - begun if first is None else first
            pieces.append(piece)
    except Exception as error:  # whatever a client may raise is what is counted here
        found.errors.append(f"{type(error).__name__}: {error}"[:200])
        await asyncio.sleep(PAUSE)
        return
    text = "".join(pieces)
    found.answers += 1
    found.tokens += case["max_tokens"]
    found.first.append(first or 0.0)
    found.each.append((time.monotonic() - begun - (first or 0.0)) / max(case["max_tokens"] - 1, 1))
    if text != case["text"]:
        found.wrong.append(f"{case['prompt']!r}: {text[:80]!r}, not {case['text'][:80]!r}")


def main(client: str, url: str, cases: str, streams: str, seconds: str) -> None:
    stream = {"openai": by_openai, "sockets": by_sockets}[client](url)
    begun = time.monotonic()
    found = asyncio.run(run(stream, json.loads(Path(cases).read_text()), int(streams), float(seconds)))
    print(json.dumps(found.report(time.monotonic() - begun)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
