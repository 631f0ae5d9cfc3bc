"""Trained models that nobody here made, and figures that were measured without us (SOURCE.md beside each).

A perplexity here goes the whole way of the product: exported, optimized, quantized, packed, served by ONNX Runtime.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from compressor import pipeline, sources
from compressor.artifact import Artifact
from compressor.data import calibration
from compressor.data.calibration import Windows
from compressor.data.vocabulary import Vocabulary
from compressor.graph.decoder import Decoder, DecoderSession
from compressor.graph.session import load_model, open_session
from compressor.recipe import recipe
from compressor.recipe.limits import Perplexity
from compressor.shelf import Shelf
from compressor.validate import perplexity

EVAL = Path(__file__).parents[2] / "shared" / "eval"
TEXT = EVAL / "text"
pytestmark = [
    pytest.mark.eval,
    pytest.mark.skipif(not EVAL.is_dir(), reason=f"{EVAL} is absent: it lies beside the project, not in it"),
]

# The figures are of PyTorch and rounded to their last digit. Ours add float32 sums in another order: a code on the
# edge of two may fall to its other side, and a perplexity moves in the fourth digit; at 3 bits per row, where one
# code is a third of the weight, in the third.
SAME, SAME_AT_THREE_BITS = 1e-3, 1e-2


@dataclass(frozen=True)
class Trained:
    """A model of the evaluation material, exported once; its perplexities, each measured once."""

    name: str
    shelf: Shelf
    measured_on: Perplexity
    calibrated_on: Mapping[str, Any]
    known: dict[str, float] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return EVAL / self.name

    def exported(self) -> Artifact:
        return pipeline.export(sources.find(str(self.folder)), recipe.build({"model": str(self.folder)}), self.shelf)

    def windows(self) -> Windows:
        return calibration.heldout_windows(self.measured_on, Vocabulary.of(self.folder), None)

    def perplexity(self, **quantize: Any) -> float:
        """perplexity(rtn={"bits": 4}) of the packed artifact; of the exported graph when nothing is asked for."""
        key = json.dumps(quantize)
        if key not in self.known:
            made = self._packaged(quantize) if quantize else self.exported()
            self.known[key] = perplexity.of(runner(made), self.windows())
        return self.known[key]

    def _packaged(self, quantize: Mapping[str, Any]) -> Artifact:
        request = {"model": str(self.folder), "calibration": dict(self.calibrated_on), "quantize": dict(quantize)}
        options = recipe.build(request)
        optimized = pipeline.optimize(self.exported(), options, self.shelf)
        return pipeline.package(optimized, pipeline.quantize(optimized, options, self.shelf), options, self.shelf)


def runner(made: Artifact) -> DecoderSession:
    sizes = Decoder.of(load_model(made.model))
    assert sizes is not None
    return DecoderSession(sizes, open_session(made.model, "served"))


@pytest.fixture(scope="module")
def stories(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """260,032 parameters, measured as its figures were: the first stories, one a window."""
    source = str(TEXT / "tinystories_1000.json")
    measured_on = Perplexity(source=source, windows="documents", length=512, tokens=20000)
    return Trained("stories260K-hf", Shelf(tmp_path_factory.mktemp("stories")), measured_on, {})


@pytest.fixture(scope="module")
def stories_split(stories: Trained, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The same model, calibrated on stories 0-899 and measured on 900-999."""
    folder = tmp_path_factory.mktemp("split")
    texts = json.loads((TEXT / "tinystories_1000.json").read_text(encoding="utf-8"))
    for name, part in (("first.json", texts[:900]), ("last.json", texts[900:])):
        (folder / name).write_text(json.dumps(part), encoding="utf-8")
    measured_on = Perplexity(source=str(folder / "last.json"), windows="documents", length=512, tokens=8000)
    return Trained(stories.name, stories.shelf, measured_on, {"source": str(folder / "first.json"), "samples": 32})


@pytest.fixture(scope="module")
def mix10m(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """10.2 million parameters, wide enough for every group; wiki.test.raw was not seen in its training.

    64 calibration windows instead of 16 gain another 0.1 and take twice as long.
    """
    measured_on = Perplexity(source=str(TEXT / "wiki.test.raw"), windows="packed", length=256, tokens=20480)
    calibrated_on = {"source": str(TEXT / "wiki.valid.raw"), "samples": 16, "length": 512}
    return Trained("mix10m-hf", Shelf(tmp_path_factory.mktemp("mix10m")), measured_on, calibrated_on)


# --- stories260K -----------------------------------------------------------------------------------------------------


def test_stories_exported(stories: Trained) -> None:
    windows = stories.windows()
    assert (windows.predicted, windows.ids.shape[1] <= 512, int(windows.ids[0, 0])) == (20000, True, 1)
    assert stories.perplexity() == pytest.approx(3.884, rel=SAME)


@pytest.mark.parametrize(("bits", "figure", "same"), [(8, 3.884, SAME), (4, 4.60, SAME), (3, 24.5, SAME_AT_THREE_BITS)])
def test_stories_rounded_per_row(bits: int, figure: float, same: float, stories: Trained) -> None:
    assert stories.perplexity(rtn={"bits": bits, "group_size": -1, "scheme": "absmax"}) == pytest.approx(
        figure, rel=same
    )


def test_stories_gptq_is_no_worse_than_rounding(stories_split: Trained) -> None:
    for group_size in (-1, 32):
        grid = {"bits": 4, "group_size": group_size}
        assert stories_split.perplexity(gptq=grid) <= stories_split.perplexity(rtn=grid)


def test_stories_told_by_three_engines_are_one_story(stories: Trained) -> None:
    """200 tokens from BOS, the most likely each time."""
    genai = pytest.importorskip("onnxruntime_genai", reason="onnxruntime-genai is not installed")
    exported, bos = stories.exported(), 1
    ours = runner(exported).greedy([bos], 200)

    model = AutoModelForCausalLM.from_pretrained(stories.folder, dtype=torch.float32)
    theirs = model.generate(torch.tensor([[bos]]), do_sample=False, max_new_tokens=200, eos_token_id=None)
    assert ours == theirs[0, 1:].tolist()

    served = genai.Model(str(exported.directory))
    parameters = genai.GeneratorParams(served)
    parameters.set_search_options(max_length=201)
    generator = genai.Generator(served, parameters)
    generator.append_tokens([bos])
    while not generator.is_done():
        generator.generate_next_token()
    assert ours == [int(token) for token in generator.get_sequence(0)][1:]
    said = genai.Tokenizer(served).decode(ours)
    assert said.strip().startswith("Once upon a time, there was a little girl named Lily. She loved to play outside")


# --- mix10m ----------------------------------------------------------------------------------------------------------


def test_mix10m_exported(mix10m: Trained) -> None:
    windows = mix10m.windows()
    assert windows.ids.shape == (80, 256)
    assert mix10m.perplexity() == pytest.approx(53.205, rel=SAME)


@pytest.mark.parametrize(("group_size", "figure"), [(-1, 55.844), (128, 54.931), (64, 54.688), (32, 54.432)])
def test_mix10m_rounded_to_three_bits(group_size: int, figure: float, mix10m: Trained) -> None:
    assert mix10m.perplexity(rtn={"bits": 3, "group_size": group_size, "scheme": "absmax"}) == pytest.approx(
        figure, rel=SAME
    )


@pytest.mark.parametrize("group_size", [128, 64, 32])
def test_mix10m_gptq_at_three_bits_is_below_rounding(group_size: int, mix10m: Trained) -> None:
    grid = {"bits": 3, "group_size": group_size}
    assert mix10m.perplexity(gptq=grid) < mix10m.perplexity(rtn=grid)


# Sums in another order (another processor, batches of 512 tokens for 1024) moved a perplexity at 2 bits by 0.4 of 54.
BY_CHANCE_AT_TWO_BITS = 1.01


def test_mix10m_searched_scales_do_not_harm_gptq_at_two_bits(mix10m: Trained) -> None:
    """They do where they shrink as far as rounding wants them to: 55.8 where 54.3 is had without a search."""
    grid = {"bits": 2, "group_size": 64}
    without = mix10m.perplexity(gptq=grid | {"scale_search": False})
    assert mix10m.perplexity(gptq=grid) < without * BY_CHANCE_AT_TWO_BITS


def test_mix10m_gptq_at_four_bits_is_no_worse_than_rounding(mix10m: Trained) -> None:
    grid = {"bits": 4, "group_size": 128}
    assert mix10m.perplexity(gptq=grid) <= mix10m.perplexity(rtn=grid)


def test_mix10m_awq_at_three_bits_is_below_rounding(mix10m: Trained) -> None:
    grid = {"bits": 3, "group_size": 128, "scale_search": True}
    assert mix10m.perplexity(awq={}, rtn=grid) < mix10m.perplexity(rtn=grid)
