"""Artifacts to serve: the built-in model in float32 and in 4 bits, each with its paged twin, and what it says alone."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest

from compressor import pipeline, sources
from compressor.graph.decoder import Decoder, DecoderSession
from compressor.graph.session import load_model, open_session
from compressor.package import genai, paged
from compressor.recipe import recipe
from compressor.serve.backend import Backend, Limits, Request
from compressor.serve.served import Served
from compressor.shelf import Shelf

Logits = Callable[[Sequence[int]], np.ndarray]


@dataclass(frozen=True)
class Subject:
    """An artifact, and the logits [tokens, vocab] of one text alone by somebody who knows nothing of pages."""

    folder: Path
    alone: Logits

    @cached_property
    def served(self) -> Served:
        return Served.open(self.folder)

    @property
    def vocab(self) -> int:
        return int(self.served.model["vocab_size"])

    def make(self, backend: str, limits: Limits) -> Backend:
        return self.served.backend(backend, limits)()

    def is_greedy(self, request: Request, output: Sequence[int], finish: str) -> bool:
        """Whether each token is the most likely after all before it: then it is what a run alone would have said."""
        text = [*request.prompt, *output]
        best = self.alone(text).argmax(-1)[len(request.prompt) - 1 :].tolist()
        if finish == "stop":
            return best[:-1] == list(output) and best[-1] in self.served.ends and len(output) < request.new_tokens
        return best[:-1] == list(output) and len(output) == request.new_tokens


def subject(model: str, folder: Path, *, bits: int | None) -> Subject:
    """Float32 against transformers; quantized against our own contiguous graph."""
    options = recipe.build({"model": model, "target": "cpu", "quantize": {"rtn": {"bits": bits or 4}}})
    source, shelf = sources.find(model), Shelf(folder / "stages")
    optimized = pipeline.optimize(pipeline.export(source, options, shelf), options, shelf)
    if bits:
        made = pipeline.package(optimized, pipeline.quantize(optimized, options, shelf), options, shelf)
        return Subject(made.directory, _by_our_graph(made.model))
    place = folder / "float32"
    shutil.copytree(optimized.directory, place)
    sizes = Decoder.of(load_model(optimized.model))
    assert sizes is not None
    context, _ = sources.served_context(place)
    genai.write(place, sources.config(place), sizes, context)
    paged.write(place, context)
    return Subject(place, _by_transformers(source.folder))


def _by_our_graph(path: Path) -> Logits:
    sizes = Decoder.of(load_model(path))
    assert sizes is not None
    session = DecoderSession(sizes, open_session(path, "served"))
    return lambda tokens: session.logits(np.array([tokens], np.int64))[0]


def _by_transformers(folder: Path) -> Logits:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def logits(tokens: Sequence[int]) -> np.ndarray:
        with torch.no_grad():
            return model(torch.tensor([list(tokens)])).logits[0].numpy()

    return logits


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int | None], Subject]:
    """tiny(None): the built-in model in float32; tiny(4): in 4 bits."""
    return functools.cache(lambda bits: subject("builtin:tiny-lm", tmp_path_factory.mktemp("tiny"), bits=bits))
