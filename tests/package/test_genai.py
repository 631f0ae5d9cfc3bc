"""onnxruntime-genai opens what we deliver, and says what the same graph says in our session."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from compressor import builtin, pipeline
from compressor.artifact import Artifact, open_artifact
from compressor.data.vocabulary import Vocabulary
from compressor.graph.decoder import Decoder, DecoderSession
from compressor.graph.session import load_model, open_session
from compressor.package import genai
from compressor.recipe import recipe
from compressor.shelf import Shelf
from tests.conftest import FirstRun
from tests.decoders import ARCHITECTURES, Exported

og = pytest.importorskip("onnxruntime_genai", reason="onnxruntime-genai is not installed; `pip install .[genai]`")

NEW_TOKENS, EOS, CONTEXT = 32, 1, 64


def greedy(model: og.Model, prompt: Sequence[int]) -> list[int]:
    """The most likely continuation by onnxruntime-genai; ends after EOS."""
    parameters = og.GeneratorParams(model)
    parameters.set_search_options(max_length=len(prompt) + NEW_TOKENS)
    generator = og.Generator(model, parameters)
    generator.append_tokens(list(prompt))
    while not generator.is_done():
        generator.generate_next_token()
    return [int(token) for token in generator.get_sequence(0)][len(prompt) :]


def ours(path: Path) -> DecoderSession:
    sizes = Decoder.of(load_model(path))
    assert sizes is not None
    return DecoderSession(sizes, open_session(path, "served"))


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    """BOS alone, and the first words of held-out documents."""
    lines = builtin.HELDOUT.read_text(encoding="utf-8").splitlines()
    return [[0], *([0, *ids[:12]] for ids in Vocabulary.of(builtin.TINY_LM).encode(lines[:2]))]


@pytest.fixture(scope="module")
def packaged(first: FirstRun, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The built-in model, every layer rounded to 4 bits."""
    shelf = Shelf(tmp_path_factory.mktemp("genai"))
    optimized = open_artifact(first.run.stage("optimize"))
    options = recipe.build({"model": "builtin:tiny-lm", "quantize": {"rtn": {"bits": 4}}})
    return pipeline.package(optimized, pipeline.quantize(optimized, options, shelf), options, shelf)


def test_the_packaged_model_says_what_our_session_says(packaged: Artifact, prompts: list[list[int]]) -> None:
    session, served = ours(packaged.model), og.Model(str(packaged.directory))
    for prompt in prompts:
        assert greedy(served, prompt) == session.greedy(prompt, NEW_TOKENS, stop=EOS)


def test_the_exported_model_says_what_transformers_say(first: FirstRun, prompts: list[list[int]]) -> None:
    model = AutoModelForCausalLM.from_pretrained(builtin.TINY_LM, dtype=torch.float32)
    served = og.Model(str(first.run.stage("export")))
    for prompt in prompts:
        whole = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=NEW_TOKENS)[0].tolist()
        assert greedy(served, prompt) == whole[len(prompt) :]


def test_its_tokenizer_reads_as_ours(packaged: Artifact) -> None:
    lines = builtin.HELDOUT.read_text(encoding="utf-8").splitlines()[:20]
    tokenizer = og.Tokenizer(og.Model(str(packaged.directory)))
    expected = Vocabulary.of(packaged.directory).encode(lines)
    assert [[int(token) for token in tokenizer.encode(line)] for line in lines] == expected
    assert [tokenizer.decode(ids) for ids in expected] == lines


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_is_served(architecture: str, exported: Callable[[str], Exported]) -> None:
    decoder, folder = exported(architecture), exported(architecture).path.parent
    genai.write(folder, decoder.torch_model.config.to_dict(), decoder.runner.decoder, CONTEXT)
    served = og.Model(str(folder))
    for prompt in ([5], [7, 30, 2, 64, 9]):
        assert greedy(served, prompt) == decoder.runner.greedy(prompt, NEW_TOKENS, stop=EOS)


# --- the configuration -----------------------------------------------------------------------------------------------

SIZES = Decoder(3, 2, 16, 99, ("input_ids", "attention_mask", "position_ids", "past_key_values.0.key"))


def written(folder: Path, **config: object) -> dict[str, object]:
    genai.write(folder, config, SIZES, CONTEXT)
    return dict(json.loads((folder / genai.CONFIG).read_bytes())["model"])


def test_an_answer_ends_with_the_context_at_the_latest(tmp_path: Path) -> None:
    assert written(tmp_path)["context_length"] == CONTEXT
    search = json.loads((tmp_path / genai.CONFIG).read_bytes())["search"]
    assert search == {"max_length": CONTEXT, "do_sample": False, "num_beams": 1, "past_present_share_buffer": False}


@pytest.mark.parametrize(
    ("config", "pad"),
    [
        ({"eos_token_id": 7, "pad_token_id": 3}, 3),
        ({"eos_token_id": 7, "pad_token_id": 0}, 0),
        ({"eos_token_id": 7, "pad_token_id": None}, 7),
        ({"eos_token_id": [7, 8]}, 7),
    ],
)
def test_a_model_without_padding_pads_with_its_end(config: dict[str, object], pad: int, tmp_path: Path) -> None:
    model = written(tmp_path, **config)
    assert (model["pad_token_id"], model["eos_token_id"]) == (pad, config["eos_token_id"])


def test_sizes_and_names_are_those_of_the_graph(tmp_path: Path) -> None:
    decoder = written(tmp_path, hidden_size=64, num_attention_heads=4)["decoder"]
    assert isinstance(decoder, dict)
    sizes = {"head_size": 16, "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    assert decoder.items() >= {**sizes, "num_hidden_layers": 3, "filename": "model.onnx"}.items()
    assert decoder["inputs"] == {
        "input_ids": "input_ids",
        "attention_mask": "attention_mask",
        "position_ids": "position_ids",
        "past_key_names": "past_key_values.%d.key",
        "past_value_names": "past_key_values.%d.value",
    }


def test_nothing_is_null_however_little_the_configuration_says(tmp_path: Path) -> None:
    """onnxruntime-genai refuses a null where it expects a number."""
    written(tmp_path)
    assert "null" not in (tmp_path / genai.CONFIG).read_text(encoding="utf-8")
