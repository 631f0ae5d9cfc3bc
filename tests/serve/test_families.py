"""Decoder families: on both backends, in chunks and with preemption, each says what transformers says."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from compressor.serve.backend import Limits, Request
from compressor.serve.served import BACKENDS
from compressor.sources import TOKENIZER
from tests import architectures
from tests.serve.conftest import subject
from tests.serve.serving import serve

pytest.importorskip("onnxruntime_genai", reason="onnxruntime-genai is not installed; `pip install .[genai]`")

ALIBI = {"bloom", "mpt"}  # what is far counts less: no paged graph has it
FAMILIES = [
    name
    for name, row in architectures.ROWS.items()
    if row.model.endswith(("ForCausalLM", "LMHeadModel")) and name not in ALIBI
]
CRAMPED = Limits(num_blocks=9, block_size=4, max_batch=4, max_step_tokens=7, context=64, threads=1)
BUILTIN = Path(__file__).parents[2] / "compressor" / "builtin" / "tiny-lm"


def requests(vocab: int) -> list[Request]:
    """Four that grow beyond the pool together, and twelve, several of which begin alike; longer than the windows."""
    rng = np.random.default_rng(0)
    begin = rng.integers(3, vocab, 9).tolist()
    prompts = [(*begin[: rng.integers(10)], *rng.integers(3, vocab, rng.integers(1, 9)).tolist()) for _ in range(12)]
    growing = [Request(tuple(rng.integers(3, vocab, 3).tolist()), 20) for _ in range(4)]
    return growing + [Request(prompt, int(rng.integers(1, 14))) for prompt in prompts]


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_says_what_transformers_says(family: str, tmp_path: Path) -> None:
    checkpoint = architectures.write(family, tmp_path / family)
    shutil.copy(BUILTIN / TOKENIZER, checkpoint)  # an artifact has one; no text is read here
    model = subject(str(checkpoint), tmp_path / "made", bits=None)
    asked = requests(model.vocab)
    for name in BACKENDS:
        backend = model.make(name, CRAMPED)
        for request, one in zip(asked, serve(backend, asked, arrival=0.4), strict=True):
            assert model.is_greedy(request, one.tokens, one.finish)
        assert backend.usage().tally.cached_tokens > 0
        assert backend.usage().tally.preemptions > 0
