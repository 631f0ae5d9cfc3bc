"""A quantized checkpoint is read back by readers typed out from the public layouts, and by the engines themselves.

Bit for bit: codes, scales and zero points leave nothing to round.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
import transformers
from safetensors import safe_open

from compressor import builtin, catalog
from compressor.package import checkpoint, matmulnbits
from compressor.package.shards import read_header
from compressor.quantize.qtensor import PER_CHANNEL, Choice, Grid, QTensor
from compressor.quantize.rtn import RoundToNearest
from compressor.stages import pieces
from tests import readers
from tests.oracles import python_of

ENGINES = Path(__file__).parent / "engines"
SIZES = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
CHOICES = [(8, 32), (4, 32), (4, 64), (4, PER_CHANNEL), (2, 16)]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama in several shards, in bfloat16, which numpy does not know."""
    folder = tmp_path_factory.mktemp("source")
    config = transformers.LlamaConfig(**SIZES, num_key_value_heads=2, initializer_range=0.2)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="60KB")
    return folder


def weights(source: Path) -> dict[str, torch.Tensor]:
    """The projections, float32 [in, out]."""
    found = {}
    for path in sorted(source.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            found |= {name: file.get_tensor(name).float().T for name in file.keys() if "proj" in name}  # noqa: SIM118
    return found


def written(
    source: Path, folder: Path, form: str, bits: int = 4, group_size: int = 32, scheme: str = "absmax"
) -> dict[str, QTensor]:
    """Every projection rounded, the checkpoint written; returns the QTensors."""
    entry = catalog.FORMATS[form]
    solver = RoundToNearest(Grid(bits, scheme, half_scales=entry.half_scales), group_size)
    tensors = {name: solver.solve(weight) for name, weight in weights(source).items()}
    layout, symmetric = catalog.resolve(entry.where), scheme == "absmax"
    chosen = dict.fromkeys(tensors, Choice(bits, group_size))
    places = pieces.find(source, chosen)
    sizes = checkpoint.write(source, folder, layout, places, tensors.__getitem__, symmetric=symmetric)
    (folder / "config.json").write_bytes((source / "config.json").read_bytes())
    checkpoint.add_config(folder, layout.config(chosen, ["lm_head.weight"], symmetric))
    assert sizes.keys() == tensors.keys()
    return tensors


@pytest.mark.parametrize("scheme", ["absmax", "zero_point"])
@pytest.mark.parametrize(("bits", "group_size"), CHOICES)
def test_a_gptq_reader_typed_out(bits: int, group_size: int, scheme: str, source: Path, tmp_path: Path) -> None:
    tensors = written(source, tmp_path, "gptq", bits, group_size, scheme)
    for name, weight in readers.weights(tmp_path).items():
        np.testing.assert_array_equal(weight, tensors.pop(name).dequantize())
    assert not tensors
    config = readers.config(tmp_path)
    known = {"quant_method": "gptq", "bits": bits, "group_size": group_size, "sym": scheme == "absmax"}
    assert known.items() <= config.items()
    assert (config["checkpoint_format"], config["desc_act"], config["lm_head"]) == ("gptq", False, False)


@pytest.mark.parametrize("scheme", ["absmax", "zero_point"])
@pytest.mark.parametrize(("bits", "group_size"), CHOICES[:-1])
def test_a_compressed_tensors_reader_typed_out(
    bits: int, group_size: int, scheme: str, source: Path, tmp_path: Path
) -> None:
    tensors = written(source, tmp_path, "compressed_tensors", bits, group_size, scheme)
    for name, weight in readers.weights(tmp_path).items():
        np.testing.assert_array_equal(weight, tensors.pop(name).dequantize())
    assert not tensors
    config = readers.config(tmp_path)
    assert (config["format"], config["ignore"]) == ("pack-quantized", ["lm_head"])


def test_all_other_tensors_are_copied_byte_for_byte(source: Path, tmp_path: Path) -> None:
    tensors = written(source, tmp_path, "gptq")
    shards = sorted(path.name for path in source.glob("*.safetensors"))
    assert sorted(path.name for path in tmp_path.glob("*.safetensors")) == shards
    assert len(shards) > 1
    for name in shards:
        before, after = read_header(source / name), read_header(tmp_path / name)
        for tensor in before.keys() - tensors.keys():
            for one, stored in ((source, before[tensor]), (tmp_path, after[tensor])):
                assert (stored.dtype, stored.shape) == ("BF16", before[tensor].shape)
                bits = (one / name).read_bytes()[stored.begin :][: stored.nbytes]
                assert bits == (source / name).read_bytes()[before[tensor].begin :][: stored.nbytes]
    assert not tensors.keys() & readers.held(tmp_path).keys()
    index = json.loads((tmp_path / checkpoint.INDEX).read_text())["weight_map"]
    assert index == {tensor: name for name in shards for tensor in read_header(tmp_path / name)}


def test_equal_inputs_are_equal_bytes(source: Path, tmp_path: Path) -> None:
    for turn in ("one", "two"):
        (tmp_path / turn).mkdir()
        written(source, tmp_path / turn, "gptq")
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_modules_that_differ_are_named(source: Path) -> None:
    chosen = {"a.weight": Choice(4, 32), "b.weight": Choice(8, 64), "c.weight": Choice(4, 32)}
    gptq, compressed = (catalog.resolve(catalog.FORMATS[name].where) for name in ("gptq", "compressed_tensors"))
    config = gptq.config(chosen, ["d.weight", "lm_head.weight"], True)
    assert (config["bits"], config["group_size"]) == (4, 32)
    assert config["dynamic"] == {"+:^b$": {"bits": 8, "group_size": 64}, "-:^d$": {}}
    config = compressed.config(chosen, ["d.weight"], True)
    named = [(one["weights"]["num_bits"], one["targets"]) for one in config["config_groups"].values()]
    assert (named, config["ignore"]) == ([(4, ["a", "c"]), (8, ["b"])], ["d", "lm_head"])


# --- the engines -----------------------------------------------------------------------------------------------------


def test_genais_builder_reads_every_code(source: Path, tmp_path: Path) -> None:
    """Its graph holds our codes, scales and zero points; q, k and v side by side."""
    pytest.importorskip("onnxruntime_genai", reason="onnxruntime-genai is not installed")
    (tmp_path / "in").mkdir()
    tensors = written(source, tmp_path / "in", "gptq")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "in" / name).write_bytes((builtin.TINY_LM / name).read_bytes())
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", tmp_path / "in", "-o", tmp_path / "out"]
    command += ["-p", "int4", "-e", "cpu", "-c", tmp_path / "cache", "--extra_options", "exclude_lm_head=true"]
    ended = subprocess.run([str(one) for one in command], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
    held = {
        name: value.const_value.numpy()
        for name, value in ir.load(tmp_path / "out" / "model.onnx").graph.initializers.items()
    }
    for layer in (0, 1):
        for ours, theirs in (("self_attn.o_proj", "attn.o_proj"), ("mlp.down_proj", "mlp.down_proj")):
            packed = matmulnbits.Packed(tensors[f"model.layers.{layer}.{ours}.weight"])
            stem = f"model.layers.{layer}.{theirs}.MatMulNBits"
            np.testing.assert_array_equal(held[f"{stem}.qweight"], packed.codes)
            np.testing.assert_array_equal(held[f"{stem}.scales"].reshape(-1), packed.scales.reshape(-1))
            assert (held[f"{stem}.qzeros"] == 0x88).all()  # two cells whose zero point is 8


def ask(name: str, script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Let an engine in an environment of its own read the package."""
    variables = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": "", "LOGBAR_ANIMATION": "0"}
    command = [python_of(name), ENGINES / script, folder, folder / "read.npz"]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=variables, cwd=folder)


def engine(name: str, script: str, folder: Path) -> dict[str, np.ndarray]:
    """What an engine in an environment of its own takes the weights for."""
    ended = ask(name, script, folder)
    assert ended.returncode == 0, ended.stderr[-2000:]
    with np.load(folder / "read.npz") as held:
        return dict(held)


def with_tokenizer(folder: Path) -> Path:
    """GPTQModel's loader wants one beside the weights; `run` carries the model's own."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((builtin.TINY_LM / name).read_bytes())
    return folder


@pytest.mark.eval
def test_gptqmodel_reads_every_weight(source: Path, tmp_path: Path) -> None:
    tensors = written(source, tmp_path, "gptq")
    held = engine("gptqmodel", "gptqmodel_reads.py", with_tokenizer(tmp_path))
    for name, tensor in tensors.items():  # its products are float16: ours, rounded once
        np.testing.assert_array_equal(held[name], tensor.dequantize().T.half())


@pytest.mark.eval
def test_gptqmodel_takes_zero_points_from_itself_alone(source: Path, tmp_path: Path) -> None:
    """Old writers of version 1 let them overflow, and it asks who wrote them; we do not say that it was GPTQModel."""
    written(source, tmp_path, "gptq", scheme="zero_point")
    ended = ask("gptqmodel", "gptqmodel_reads.py", with_tokenizer(tmp_path))
    assert ended.returncode != 0
    assert "only supported if produced by gptqmodel" in ended.stderr


@pytest.mark.eval
@pytest.mark.parametrize(("bits", "scheme"), [(4, "absmax"), (4, "zero_point"), (8, "absmax")])
def test_transformers_reads_every_compressed_weight(bits: int, scheme: str, source: Path, tmp_path: Path) -> None:
    tensors = written(source, tmp_path, "compressed_tensors", bits, scheme=scheme)
    held = engine("llmcompressor", "transformers_reads.py", tmp_path)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(held[name], tensor.dequantize().T)
    plain = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    plain.load_state_dict({name: tensor.dequantize().T.contiguous() for name, tensor in tensors.items()}, strict=False)
    with torch.no_grad():
        logits = plain(input_ids=torch.arange(3, 35)[None]).logits[0].numpy()
    # The same weights in two versions of transformers and torch: sums in another order.
    np.testing.assert_allclose(held["logits"], logits, rtol=0, atol=1e-4 * np.abs(logits).max())
