"""Ways to answer requests, one call each: `way(requests) -> tokens delivered`. What comes beyond a wish is waste.

endless(artifact, place)             what is measured: an artifact whose rows end where they are told to
drive(backend, requests)             ours: `engine`, `reference`, `static`
generator(served, requests)          onnxruntime-genai's Generator: padded batches on the contiguous graph
generate_batch(model, requests)      transformers' continuous batching, float32 in torch
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compressor.artifact import MODEL
from compressor.graph.decoder import Decoder, DecoderSession
from compressor.graph.session import load_model, open_session
from compressor.package.genai import CONFIG
from compressor.serve.backend import Backend, Request
from compressor.serve.served import PROMPT_TOKENS, Served

BATCH = 8
PAGE = 256  # tokens of a page of transformers' cache, its default
STEP_TOKENS = PROMPT_TOKENS + BATCH  # of a call, for transformers as for us
Way = Callable[[list[Request]], int]


@dataclass
class Draw:
    """Requests with prompts that nobody has seen before: else their blocks would be there already."""

    vocab: int
    seed: int = 3

    @cached_property
    def rng(self) -> np.random.Generator:
        return np.random.default_rng(self.seed)

    def __call__(self, lengths: list[int], wishes: list[int]) -> list[Request]:
        prompts = [tuple(self.rng.integers(3, self.vocab, length).tolist()) for length in lengths]
        return [Request(prompt, wish) for prompt, wish in zip(prompts, wishes, strict=True)]


def rates(ways: dict[str, Way], draw: Callable[[], list[Request]], rounds: int) -> dict[str, Any]:
    """Tokens a second of each way, the best of the rounds, by the clock and by the processor; the ways take turns.

    On a shared machine the clock counts what others do; the processor's seconds do so far less, and are as many as the
    clock's where one thread computes.
    """
    clock, processor = dict.fromkeys(ways, 0.0), dict.fromkeys(ways, 0.0)
    for _ in range(rounds):
        for name, way in ways.items():
            requests, begin, used = draw(), time.perf_counter(), time.process_time()
            tokens = way(requests)
            clock[name] = max(clock[name], tokens / (time.perf_counter() - begin))
            processor[name] = max(processor[name], tokens / (time.process_time() - used))
    return {
        name: {"tokens/s": round(clock[name], 1), "tokens/processor second": round(processor[name], 1)} for name in ways
    }


def endless(artifact: Path, place: Path) -> Served:
    """A copy of an artifact that ends a text with the token it finds the least likely; `drive` sees that none comes.

    A row that ends early leaves fewer in each call, and Generator, which is told a least length, computes them all.
    """
    folder = place / artifact.name
    shutil.copytree(artifact, folder)
    sizes = Decoder.of(load_model(folder / MODEL))
    assert sizes is not None
    tokens = np.random.default_rng(0).integers(3, sizes.vocab, (BATCH, 64))
    logits = DecoderSession(sizes, open_session(folder / MODEL, "served")).logits(tokens)
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    config["model"]["eos_token_id"] = int((logits - logits.max(-1, keepdims=True)).max((0, 1)).argmin())
    (folder / CONFIG).write_text(json.dumps(config), encoding="utf-8")
    return Served.open(folder)


def drive(backend: Backend, requests: list[Request]) -> int:
    for request in requests:
        backend.submit(request)
    tokens = 0
    while backend.busy:
        tokens += sum(event.token is not None for event in backend.step())
    assert tokens == sum(request.new_tokens for request in requests), "a row ended early: these times compare nothing"
    return tokens


def generator(served: Served, threads: int) -> Way:
    """Eight rows, padded on the right, until the longest has all it wants."""
    import onnxruntime_genai as og

    config = og.Config(str(served.folder))
    config.overlay(f'{{"model": {{"decoder": {{"session_options": {{"intra_op_num_threads": {threads}}}}}}}}}')
    model, pad = og.Model(config), int(served.model["pad_token_id"])

    def one(batch: list[Request]) -> int:
        prompts = _padded([request.prompt for request in batch], pad)
        longest = prompts.shape[1] + max(request.new_tokens for request in batch)
        parameters = og.GeneratorParams(model)
        parameters.set_search_options(max_length=longest, min_length=longest, batch_size=len(batch))
        run = og.Generator(model, parameters)
        run.append_tokens(prompts)
        while not run.is_done():
            run.generate_next_token()
        return sum(request.new_tokens for request in batch)

    return lambda requests: sum(one(requests[at : at + BATCH]) for at in range(0, len(requests), BATCH))


def _padded(prompts: list[tuple[int, ...]], pad: int) -> NDArray[np.int32]:
    rows: NDArray[np.int32] = np.full((len(prompts), max(map(len, prompts))), pad, np.int32)
    for row, prompt in zip(rows, prompts, strict=True):
        row[: len(prompt)] = prompt
    return rows


def generate_batch(folder: Path, threads: int) -> Way:
    """One call takes one length of output, so requests are called by the longest and the rest is waste."""
    import torch
    from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig

    torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def way(requests: list[Request]) -> int:
        longest = max(len(one.prompt) + one.new_tokens for one in requests)
        sizes = ContinuousBatchingConfig(
            num_blocks=BATCH * -(-longest // PAGE), max_batch_tokens=STEP_TOKENS, max_requests_per_batch=BATCH
        )
        wanted = max(one.new_tokens for one in requests)
        chosen = GenerationConfig(max_new_tokens=wanted, do_sample=False, eos_token_id=-1)
        found = model.generate_batch(
            [list(one.prompt) for one in requests], generation_config=chosen, continuous_batching_config=sizes
        )
        assert len(found) == len(requests)
        return sum(one.new_tokens for one in requests)

    return way
