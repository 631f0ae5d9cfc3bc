"""Serving, measured: continuous against static batching, shared prefixes, paged against contiguous, memory.

    python -m tests.bench.serving ARTIFACT [--threads N]      an artifact of `compress run`, with its paged twin

32 requests of 8 to 64 new tokens, eight at once. `static` waits until a batch is over; `generator` is
onnxruntime-genai's own loop over the contiguous graph, in batches of eight. Every round has prompts of its own, or
their blocks would be there already. Each number is the best of three rounds, in turns. Results, with versions and
date, go to `results/serving.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from compressor import artifact
from compressor.paged_decoder import PAGED_MODEL, PagedSession
from compressor.serve.backend import Backend, Limits, Request
from compressor.serve.served import Served

RESULTS = Path(__file__).parent / "results" / "serving.json"
BATCH, ROUNDS, BLOCK_SIZE = 8, 3, 16


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--threads", type=int, default=0)
    given = parser.parse_args()
    served = Served.open(given.artifact)
    found = {
        "artifact": given.artifact.name,
        "date": time.strftime("%Y-%m-%d"),
        "versions": artifact.versions(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "mixed": mixed(served, given.threads),
        "shared prefix": shared_prefix(served, given.threads),
        "contexts": contexts(served, given.threads),
        "memory": memory(served),
    }
    artifact.write_json(RESULTS, found)
    print(json.dumps(found, indent=2))


def limits(served: Served, threads: int) -> Limits:
    context = int(served.model["context_length"])
    return Limits(BATCH * -(-context // BLOCK_SIZE), BLOCK_SIZE, BATCH, 256, context, threads)


def mixed(served: Served, threads: int) -> dict[str, Any]:
    """Tokens a second of 32 requests that differ in length."""
    draw, most = Draw(served), limits(served, threads)
    wishes = [int(wish) for wish in np.random.default_rng(0).integers(8, 65, 32)]
    ways: dict[str, Callable[[], int]] = {}
    for name in ("engine", "reference"):
        backend = served.backend(name, most)()
        ways[f"{name}, continuous"] = lambda backend=backend: drive(backend, draw(24, wishes), 32)  # type: ignore[misc]
        ways[f"{name}, static"] = lambda backend=backend: drive(backend, draw(24, wishes), BATCH)  # type: ignore[misc]
    ways["generator, batches of 8"] = lambda: generator(served, draw(24, wishes))
    return rates(ways)


class Draw:
    """Requests with prompts that nobody has seen before."""

    def __init__(self, served: Served) -> None:
        self.rng, self.vocab = np.random.default_rng(3), int(served.model["vocab_size"])

    def __call__(self, length: int, wishes: list[int]) -> list[Request]:
        return [Request(tuple(self.rng.integers(3, self.vocab, length).tolist()), wish) for wish in wishes]


def shared_prefix(served: Served, threads: int) -> dict[str, Any]:
    """Seconds for eight prompts that begin alike: sharing what was computed, and unlike, so that nothing is shared."""
    rng, vocab = np.random.default_rng(1), int(served.model["vocab_size"])
    most = limits(served, threads)
    length = min(480, most.context - 32)

    def seconds(alike: bool) -> float:
        begin = rng.integers(3, vocab, length).tolist()
        heads = [begin if alike else rng.integers(3, vocab, length).tolist() for _ in range(BATCH)]
        requests = [Request((*head, *rng.integers(3, vocab, 16).tolist()), 8) for head in heads]
        backend = served.backend("engine", most)()
        started = time.perf_counter()
        drive(backend, requests, BATCH)
        return time.perf_counter() - started

    found = {"alike": min(seconds(True) for _ in range(ROUNDS)), "unlike": min(seconds(False) for _ in range(ROUNDS))}
    return {"tokens in common": length, "seconds": found}


def contexts(served: Served, threads: int) -> dict[str, Any]:
    """Tokens a second of eight rows, by how much lies before them."""
    draw, most, found = Draw(served), limits(served, threads), {}
    wishes = [32] * BATCH
    for length in [size for size in (64, 256, 448, 960) if size + 32 <= most.context]:
        backend = served.backend("engine", most)()
        ways: dict[str, Callable[[], int]] = {
            "engine, paged": lambda backend=backend, length=length: drive(backend, draw(length, wishes), BATCH),  # type: ignore[misc]
            "generator, contiguous": lambda length=length: generator(served, draw(length, wishes)),  # type: ignore[misc]
        }
        found[str(length)] = rates(ways)
    return found


def memory(served: Served) -> dict[str, Any]:
    """Bytes of cache that a request of 100 tokens needs: its blocks, against a row of the whole context."""
    per_token = served.block_bytes / BLOCK_SIZE
    pool = PagedSession(served.folder / PAGED_MODEL, 7, BLOCK_SIZE)  # 100 tokens are seven blocks
    return {"paged": pool.pool_bytes, "contiguous": int(per_token * int(served.model["context_length"]))}


def rates(ways: dict[str, Callable[[], int]]) -> dict[str, float]:
    """Tokens a second of each way, the best of the rounds; the rounds go through all ways in turn."""
    best = dict.fromkeys(ways, 0.0)
    for _ in range(ROUNDS):
        for name, run in ways.items():
            begin = time.perf_counter()
            tokens = run()
            best[name] = max(best[name], tokens / (time.perf_counter() - begin))
    return {name: round(rate, 1) for name, rate in best.items()}


def drive(backend: Backend, requests: list[Request], together: int) -> int:
    """Tokens that were delivered; `together` requests are begun at once, and all end before the next are."""
    tokens = 0
    for start in range(0, len(requests), together):
        for request in requests[start : start + together]:
            backend.submit(request)
        while backend.busy:
            tokens += sum(event.token is not None for event in backend.step())
    return tokens


def generator(served: Served, requests: list[Request]) -> int:
    """onnxruntime-genai's Generator, eight rows until the longest has ended; what comes beyond a wish is waste."""
    import onnxruntime_genai as og

    model = og.Model(str(served.folder))
    tokens = 0
    for start in range(0, len(requests), BATCH):
        batch = requests[start : start + BATCH]
        longest = max(len(one.prompt) + one.new_tokens for one in batch)
        parameters = og.GeneratorParams(model)
        parameters.set_search_options(max_length=longest, min_length=longest, batch_size=len(batch))
        run = og.Generator(model, parameters)
        run.append_tokens(np.array([one.prompt for one in batch], np.int32))
        while not run.is_done():
            run.generate_next_token()
        tokens += sum(one.new_tokens for one in batch)
    return tokens


if __name__ == "__main__":
    main()
