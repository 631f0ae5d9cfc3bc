"""The committed model is the one that the grammar and the training describe."""

from __future__ import annotations

import json
import re
from functools import cache
from itertools import islice

import pytest

from compressor.builtin import CALIBRATION, HELDOUT, TINY_LM
from compressor.builtin.grammar import documents


@cache
def lines_of(split: str) -> list[str]:
    return (TINY_LM / f"{split}.txt").read_text().splitlines()


def test_the_committed_text_is_what_the_grammar_writes() -> None:
    """Fails when the grammar changed and nobody ran `make model`."""
    pytest.importorskip("torch")
    from compressor.builtin.train import CALIBRATION_SEED, HELDOUT_SEED

    assert lines_of("calibration")[:100] == list(documents(CALIBRATION_SEED, 100))
    assert lines_of("heldout")[:100] == list(documents(HELDOUT_SEED, 100))


def test_calibration_and_heldout_share_no_document() -> None:
    assert not set(lines_of("calibration")) & set(lines_of("heldout"))
    assert max(CALIBRATION.stat().st_size, HELDOUT.stat().st_size) < 300_000


def test_no_file_knows_where_it_was_made() -> None:
    for path in TINY_LM.iterdir():
        if path.suffix in (".json", ".md"):
            assert not re.search(r"/(home|root|tmp|work|usr)/", path.read_text()), path


def test_the_model_is_small_half_precision_and_tied() -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    assert (TINY_LM / "model.safetensors").stat().st_size < 3_000_000
    assert json.loads((TINY_LM / "config.json").read_text())["dtype"] == "float16"
    model = transformers.AutoModelForCausalLM.from_pretrained(TINY_LM, dtype=torch.float32)
    assert model.dtype == torch.float32
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert f"{model.num_parameters():,} parameters" in (TINY_LM / "README.md").read_text()


def test_the_tokenizer_gives_back_the_heldout_text() -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(TINY_LM)
    assert (len(tokenizer), tokenizer.bos_token_id, tokenizer.eos_token_id) == (512, 0, 1)
    tokens = tokenizer(lines_of("heldout"))["input_ids"]
    assert tokenizer.batch_decode(tokens) == lines_of("heldout")
    assert not {0, 1} & {token for line in tokens for token in line}
    assert 60_000 < sum(map(len, tokens)) < 90_000


def test_the_model_knows_its_text() -> None:
    """Twenty lines come within 10 % of the README's perplexity over all of them; another line spread is chance."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from compressor.builtin.train import perplexity

    tokenizer = transformers.AutoTokenizer.from_pretrained(TINY_LM)
    model = transformers.AutoModelForCausalLM.from_pretrained(TINY_LM, dtype=torch.float32)
    windows = [torch.tensor([0, *tokenizer.encode(line)]) for line in islice(lines_of("heldout"), 20)]
    stated = re.search(r"in float32: \*\*([\d.]+)\*\*", (TINY_LM / "README.md").read_text())
    assert stated
    assert perplexity(model, windows) == pytest.approx(float(stated[1]), rel=0.1)


def test_rounding_is_off_by_at_most_half_a_step() -> None:
    torch = pytest.importorskip("torch")
    from compressor.builtin.train import rounded

    weight = torch.randn(6, 128, generator=torch.Generator().manual_seed(0))
    step = weight.view(6, 4, 32).abs().amax(-1, keepdim=True) / 7
    error = (rounded(weight, bits=4, group=32) - weight).view(6, 4, 32).abs()
    assert (error <= step * 0.5001).all()  # half a step, and the rounding of float32
    assert error.max() > 0.4 * step.min()
