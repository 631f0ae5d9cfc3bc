"""A Llama of 51 M random weights and its calibration tokens: the same bytes for the same seed, on every machine.

    python tests/bench/llama50m.py build/llama50m
    ->  build/llama50m/model/{config,generation_config,tokenizer,tokenizer_config}.json, model.safetensors   float32
        build/llama50m/calibration.npy                                                                int64 [32, 512]

Only numpy and safetensors are needed: no peer's transformers has a say in what is measured.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

HIDDEN = 512
INTERMEDIATE = 2048  # every projection's input, 512 or 2048, is a whole number of 128-groups, at least four
LAYERS = 12
HEADS = 8
KV_HEADS = 4
HEAD_DIM = HIDDEN // HEADS
VOCABULARY = 8192
SAMPLES, TOKENS = 32, 512

STD = 0.02  # Llama's own `initializer_range`
LOUD_EVERY = 37  # one hidden channel in 37 is loud: no two in step with a group of 128
LOUD_GAIN = 8.0  # of the order of the outlier channels of trained models, without drowning the others

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "intermediate_size": INTERMEDIATE,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "head_dim": HEAD_DIM,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "torch_dtype": "float32",
}

PROJECTIONS = {  # name -> [out, in]
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (KV_HEADS * HEAD_DIM, HIDDEN),
    "self_attn.v_proj": (KV_HEADS * HEAD_DIM, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (INTERMEDIATE, HIDDEN),
    "mlp.up_proj": (INTERMEDIATE, HIDDEN),
    "mlp.down_proj": (HIDDEN, INTERMEDIATE),
}


@dataclass(frozen=True)
class Bench:
    """What every contestant is given."""

    model: Path  # Hugging Face folder
    calibration: Path  # .npy, int64 [samples, tokens]; no padding


def make(folder: Path, seed: int = 0) -> Bench:
    """The same seed writes the same bytes."""
    bench = Bench(model=folder / "model", calibration=folder / "calibration.npy")
    bench.model.mkdir(parents=True, exist_ok=True)
    documents = {
        "config.json": CONFIG,
        "generation_config.json": {name: CONFIG[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")},
        "tokenizer.json": tokenizer(),
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "pad_token": "<pad>",
            "bos_token": "<s>",
            "eos_token": "</s>",
            "unk_token": "<unk>",
        },
    }
    for name, document in documents.items():
        (bench.model / name).write_text(json.dumps(document, indent=1) + "\n")
    rng = np.random.default_rng(seed)
    save_file(weights(rng), bench.model / "model.safetensors", metadata={"format": "pt"})
    np.save(bench.calibration, calibration(rng))
    return bench


def weights(rng: np.random.Generator) -> dict[str, NDArray[np.float32]]:
    """N(0, STD), with loud channels in front of every projection, so that no Hessian is a multiple of the identity.

    q, k, v, gate and up hear them through the norm before them, o and down through the rows of v and up.
    """

    def normal(*shape: int) -> NDArray[np.float32]:
        return rng.standard_normal(shape, dtype=np.float32) * np.float32(STD)

    tensors = {"model.embed_tokens.weight": normal(VOCABULARY, HIDDEN), "model.norm.weight": gain(HIDDEN)}
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{prefix}.{norm}.weight"] = gain(HIDDEN)
        for name, shape in PROJECTIONS.items():
            tensors[f"{prefix}.{name}.weight"] = normal(*shape)
        for name in ("self_attn.v_proj", "mlp.up_proj"):
            tensors[f"{prefix}.{name}.weight"] *= gain(PROJECTIONS[name][0])[:, None]
    return tensors


def gain(width: int) -> NDArray[np.float32]:
    """One, and LOUD_GAIN at every LOUD_EVERY-th channel."""
    channels = np.ones(width, dtype=np.float32)
    channels[::LOUD_EVERY] = LOUD_GAIN
    return channels


def calibration(rng: np.random.Generator) -> NDArray[np.int64]:
    """Ids above the special tokens, [SAMPLES, TOKENS]; the cube of a uniform draw: few are common, most are rare."""
    first = len(SPECIAL)
    return first + ((VOCABULARY - first) * rng.random((SAMPLES, TOKENS)) ** 3).astype(np.int64)


SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")


def tokenizer() -> dict[str, Any]:
    """Words `w4` ... `w8191` split at white space: the peers ask for a tokenizer, nobody reads with it."""
    words = [*SPECIAL, *(f"w{token}" for token in range(len(SPECIAL), VOCABULARY))]
    return {
        "version": "1.0",
        "added_tokens": [
            {"id": token, "content": word, "special": True, "normalized": False}
            | dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
            for token, word in enumerate(SPECIAL)
        ],
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {
            "type": "WordLevel",
            "vocab": {word: token for token, word in enumerate(words)},
            "unk_token": "<unk>",
        },
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write the benchmark's model and calibration tokens.")
    parser.add_argument("folder", type=Path)
    print(make(parser.parse_args().folder))
