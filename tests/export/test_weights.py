"""Weights are read when they are written: the right ones, whole, once, and as transformers would load them."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from compressor.errors import RequestError
from compressor.export import causal_lm, unloaded, weights
from compressor.export.shards import Shards
from compressor.export.unloaded import Unloaded
from tests import decoders

STATUS = Path("/proc/self/status")
MIXTRAL = {**decoders.SIZES, **decoders.GATED, "num_local_experts": 3}


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    decoders.random_model("llama").save_pretrained(tmp_path, max_shard_size="100KB")
    return tmp_path


def change(folder: Path, name: str, tensor: torch.Tensor | None) -> None:
    """One tensor of a sharded checkpoint replaced, or taken out."""
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    shard = folder / index["weight_map"][name]
    tensors = load_file(shard)
    tensors.pop(name)
    save_file(tensors | ({name: tensor} if tensor is not None else {}), shard, {"format": "pt"})


def attached(origin: Unloaded) -> dict[str, np.ndarray]:
    """Every parameter as an export would write it."""
    graph = ir.Graph([], [], nodes=[])
    for name in origin.model.state_dict():
        graph.initializers[name] = ir.Value(name=name)
    weights.attach(graph, origin.model, origin.origins)
    return {name: value.const_value.numpy() for name, value in graph.initializers.items()}


@pytest.mark.parametrize("family", ["llama", "mixtral", "gpt2"])
def test_every_parameter_is_what_transformers_loads(tmp_path: Path, family: str) -> None:
    """mixtral: three experts of three matrices each, stored apart and computed as two; gpt2: a prefix is missing."""
    config = transformers.MixtralConfig(**MIXTRAL) if family == "mixtral" else decoders.random_model(family).config
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    if family == "mixtral":
        assert any(".experts.2.w1." in name for name in Shards.of(tmp_path).handles)
    found = attached(causal_lm.load(tmp_path, 21))
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    for name, parameter in loaded.state_dict().items():
        np.testing.assert_array_equal(found[name], parameter.numpy(), err_msg=name)


def test_buffers_are_computed_as_transformers_does(tmp_path: Path) -> None:
    """Rotary frequencies are in no checkpoint; here they are scaled, as Llama 3 does."""
    scaled = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    rope = {"rope_parameters": scaled | {"original_max_position_embeddings": 64}, "max_position_embeddings": 512}
    config = transformers.LlamaConfig(**decoders.SIZES, **decoders.GATED, **rope)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    ours = dict(causal_lm.load(tmp_path, 21).model.named_buffers())
    assert ours.keys() == dict(loaded.named_buffers()).keys() != set()
    for name, buffer in loaded.named_buffers():
        assert torch.equal(ours[name], buffer), name


def test_a_tied_weight_comes_from_whichever_name_the_checkpoint_has(llama: Path) -> None:
    embedding = attached(causal_lm.load(llama, 21))["lm_head.weight"]
    index = json.loads((llama / "model.safetensors.index.json").read_text())["weight_map"]
    assert "lm_head.weight" not in index
    np.testing.assert_array_equal(embedding, Shards.of(llama).read("model.embed_tokens.weight").numpy())


def test_weights_that_are_tied_in_name_alone_are_two(tmp_path: Path) -> None:
    """transformers loads them as two with a warning; a graph with one of them would be wrong."""
    model = decoders.random_model("llama")
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] + 1
    save_file(tensors, file, {"format": "pt"})
    found = attached(causal_lm.load(tmp_path, 21))
    np.testing.assert_array_equal(found["lm_head.weight"], found["model.embed_tokens.weight"] + 1)


def test_a_missing_parameter_ends_the_export(llama: Path) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    change(llama, name, None)
    with pytest.raises(RequestError, match=f"the checkpoint has no '{name}'"):
        attached(causal_lm.load(llama, 21))


def test_a_parameter_of_another_shape_ends_the_export(llama: Path) -> None:
    change(llama, "model.norm.weight", torch.ones(63))
    with pytest.raises(RequestError, match=r"'model.norm.weight' is \[63\] in the checkpoint and \[64\]"):
        attached(causal_lm.load(llama, 21))


def test_a_missing_shard_is_named(llama: Path) -> None:
    shard = sorted(llama.glob("*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(RequestError, match=f"shard {shard.name} is missing"):
        causal_lm.load(llama, 21)


def test_a_shard_cut_short_is_named(llama: Path) -> None:
    shard = sorted(llama.glob("*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(RequestError, match=f"{shard.name}: not a whole safetensors file"):
        causal_lm.load(llama, 21)


def test_an_index_that_leaves_the_folder_is_refused(llama: Path) -> None:
    index = llama / "model.safetensors.index.json"
    document = json.loads(index.read_text())
    document["weight_map"]["model.norm.weight"] = "../stolen.safetensors"
    index.write_text(json.dumps(document))
    with pytest.raises(RequestError, match="lies outside the model's folder"):
        causal_lm.load(llama, 21)


def test_a_quantized_checkpoint_is_refused(llama: Path) -> None:
    config = llama / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"quantization_config": {"quant_method": "gptq"}}))
    with pytest.raises(RequestError, match="is quantized already"):
        causal_lm.load(llama, 21)


def test_what_a_checkpoint_has_too_much_is_a_fact(llama: Path) -> None:
    change(llama, "model.norm.weight", torch.ones(64))
    extra = llama / "model.safetensors.index.json"
    document = json.loads(extra.read_text())
    shard = llama / document["weight_map"]["model.norm.weight"]
    save_file(load_file(shard) | {"mtp.head": torch.ones(3)}, shard, {"format": "pt"})
    assert causal_lm.load(llama, 21).facts["unused_in_checkpoint"] == ["mtp.head"]


def test_a_conversion_that_cannot_be_done_apart_loads_the_model_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformers.AutoModelForCausalLM.from_config(transformers.MixtralConfig(**MIXTRAL)).save_pretrained(tmp_path)
    expected = attached(causal_lm.load(tmp_path, 21))

    def refuse(*_: object) -> None:
        raise weights.ConversionError("a rule")

    monkeypatch.setattr(unloaded.weights, "mapping", refuse)
    origin = causal_lm.load(tmp_path, 21)
    assert origin.facts["fallbacks"] == ["export: the whole checkpoint was held in memory, for a rule"]
    found = attached(origin)
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


def test_a_tensor_is_written_in_blocks_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "BLOCK_BYTES", 1000)
    tensor = torch.arange(7 * 100, dtype=torch.bfloat16).reshape(7, 100)
    streamed = weights.Streamed("w", weights.of_tensor("w", tensor), torch.float32)

    class Recorder(io.BytesIO):
        longest = 0

        def write(self, content: bytes) -> int:
            self.longest = max(self.longest, len(content))
            return super().write(content)

    file = Recorder()
    streamed.tofile(file)
    assert file.getvalue() == tensor.float().numpy().tobytes()
    assert file.longest == 800  # two rows of 400 bytes


@pytest.mark.skipif(not STATUS.is_file(), reason="resident memory is read from /proc")
def test_no_weight_is_touched_before_it_is_written() -> None:
    """A model of any size is built on any machine: memory that nobody wrote to is none."""
    config = transformers.LlamaConfig(**{**decoders.SIZES, "hidden_size": 8192, "num_hidden_layers": 4})
    before = resident()
    model = unloaded.build(config, "eager", torch.float32)
    assert sum(parameter.nbytes for parameter in model.parameters()) > 8e9
    assert resident() - before < 50e6


def resident() -> int:
    """Bytes of this process that no file backs."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("RssAnon"))
    return 1024 * int(line.split()[1])
