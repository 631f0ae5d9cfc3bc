"""Every decoder family that we promise: a small random one exports and passes its proof, in every way it is called.

A window of four tokens is shorter than the proof's texts, so sliding attention is felt. Where the checkpoint's layers
differ, one of each kind is there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import transformers

from compressor.export import causal_lm
from compressor.graph.session import save_model
from tests.decoders import GATED, SIZES

HEADS = {**GATED, "head_dim": 16}
WINDOW = {"sliding_window": 4}
MIXED = {**WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2}
LATENT = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16}
ROUTED = {"n_routed_experts": 4, "n_group": 1, "topk_group": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 32}

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen2": ("Qwen2Config", GATED),
    "gemma": ("GemmaConfig", HEADS),
    "gemma2": ("Gemma2Config", HEADS | MIXED),
    "gemma3_text": ("Gemma3TextConfig", HEADS | MIXED),
    "phi": ("PhiConfig", GATED),
    "phi3": ("Phi3Config", GATED | {"partial_rotary_factor": 0.5}),
    "opt": ("OPTConfig", {"ffn_dim": 96, "word_embed_proj_dim": 64}),
    "gpt_neo": ("GPTNeoConfig", {"attention_types": [[["global", "local"], 1]], "window_size": 4}),
    "gpt_neox": ("GPTNeoXConfig", {"intermediate_size": 96}),
    "gptj": ("GPTJConfig", {"rotary_dim": 8}),
    "gpt_bigcode": ("GPTBigCodeConfig", {}),
    "codegen": ("CodeGenConfig", {"rotary_dim": 8}),
    "falcon": ("FalconConfig", {"num_kv_heads": 2, "new_decoder_architecture": True}),
    "falcon_one_kv_head": ("FalconConfig", {"multi_query": True}),
    "falcon_alibi": ("FalconConfig", {"alibi": True}),  # computed in bfloat16
    "bloom": ("BloomConfig", {}),
    "mpt": ("MptConfig", {"d_model": 64, "n_heads": 4, "n_layers": 2}),
    "mixtral": ("MixtralConfig", GATED | {"num_local_experts": 4}),
    "qwen3_moe": ("Qwen3MoeConfig", HEADS | EXPERTS | {"moe_intermediate_size": 32}),
    "olmoe": ("OlmoeConfig", GATED | EXPERTS),
    "granitemoe": ("GraniteMoeConfig", GATED | {"num_local_experts": 4}),
    "gpt_oss": ("GptOssConfig", HEADS | WINDOW | {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "deepseek_v3": (
        "DeepseekV3Config",
        GATED | LATENT | ROUTED | {"num_key_value_heads": 4, "first_k_dense_replace": 1},
    ),
    "olmo": ("OlmoConfig", GATED),
    "olmo2": ("Olmo2Config", GATED),
    "olmo3": ("Olmo3Config", GATED | WINDOW),
    "cohere": ("CohereConfig", GATED | {"logit_scale": 1.0}),
    "cohere2": ("Cohere2Config", GATED | WINDOW | {"logit_scale": 1.0}),
    "starcoder2": ("Starcoder2Config", GATED | WINDOW),
    "stablelm": ("StableLmConfig", GATED),
    "granite": ("GraniteConfig", GATED),
    "smollm3": ("SmolLM3Config", GATED | {"num_hidden_layers": 4}),
    "glm4": ("Glm4Config", HEADS),
    "exaone4": ("Exaone4Config", GATED | WINDOW),
    "ernie4_5": ("Ernie4_5Config", HEADS),
    "nemotron": ("NemotronConfig", GATED),
    "persimmon": ("PersimmonConfig", {"intermediate_size": 96}),
    "biogpt": ("BioGptConfig", {"intermediate_size": 96}),
    "xglm": ("XGLMConfig", {"d_model": 64, "num_layers": 2, "attention_heads": 4, "ffn_dim": 96}),
}
FAST = ("gemma3_text", "falcon_alibi", "mixtral", "deepseek_v3")  # the others are `slow`; ten seconds each


def families() -> list[Any]:
    return [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]


def random_checkpoint(folder: Path, family: str) -> Path:
    class_name, own = FAMILIES[family]
    config = getattr(transformers, class_name)(**SIZES | own)
    transformers.set_seed(0)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("family", families())
def test_a_family_exports_and_is_proven(tmp_path: Path, family: str) -> None:
    origin = causal_lm.load(random_checkpoint(tmp_path, family), 21)
    save_model(causal_lm.export(origin, 21), tmp_path / "model.onnx")
    assert origin.facts["fallbacks"] == []
    found = causal_lm.prove(origin, tmp_path / "model.onnx")
    assert max(one.difference for one in found) < 1e-5  # 4e-6 was seen; the tolerance leaves room for depth


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_half_type_is_proven_too(tmp_path: Path, dtype: str) -> None:
    """3e-3 and 3e-2 were seen: 11 and 8 bits, two layers deep."""
    config = transformers.LlamaConfig(**SIZES | GATED)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    origin = causal_lm.load(tmp_path, 21, dtype)
    save_model(causal_lm.export(origin, 21), tmp_path / "model.onnx")
    found = causal_lm.prove(origin, tmp_path / "model.onnx", dtype)
    assert max(one.difference for one in found) > 1e-4  # or it was not computed in that type
