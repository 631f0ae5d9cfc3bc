"""Random decoders of the architectures that we promise, two layers small, and the graphs they become.

Weights are drawn ten times as wide as training starts with: at 0.02 every token's logits are nearly those of its
embedding, and a decoder that ignored mask, cache and positions would hardly be noticed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
import transformers
from transformers import PreTrainedModel

from compressor.export import causal_lm
from compressor.export.unloaded import Unloaded
from compressor.graph.decoder import Decoder, DecoderSession
from compressor.graph.session import load_model, open_session, save_model

VOCABULARY = 99
SIZES: dict[str, Any] = {"vocab_size": VOCABULARY, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZES |= {"initializer_range": 0.2, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
GATED = {"num_key_value_heads": 2, "intermediate_size": 172}

# Name -> configuration class, what makes it interesting, and the opset.
ARCHITECTURES: dict[str, tuple[str, dict[str, Any], int]] = {
    "llama": ("LlamaConfig", {**GATED, "tie_word_embeddings": True}, 21),
    "llama_23": ("LlamaConfig", {**GATED, "tie_word_embeddings": True}, 23),  # attention as one operator
    "qwen3": ("Qwen3Config", {**GATED, "tie_word_embeddings": False, "head_dim": 32}, 21),  # heads beyond hidden_size
    "mistral": ("MistralConfig", {**GATED, "sliding_window": 4}, 21),  # shorter than what the tests read
    "gpt2": ("GPT2Config", {"n_positions": 128}, 21),  # learned positions, biases, Conv1D: weights stored [in, out]
}


def random_model(architecture: str) -> PreTrainedModel:
    """A decoder in evaluation mode, the same for each call."""
    config_class, own, _ = ARCHITECTURES[architecture]
    config = getattr(transformers, config_class)(**SIZES, **own)
    torch.manual_seed(0)
    model: PreTrainedModel = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    return model.eval()


@dataclass(frozen=True)
class Exported:
    """A model in torch, and the graph that its checkpoint became; torch keeps an attention of its own."""

    torch_model: PreTrainedModel
    origin: Unloaded
    path: Path
    opset: int

    @classmethod
    def of(cls, architecture: str, folder: Path) -> Exported:
        model, path, opset = random_model(architecture), folder / "model.onnx", ARCHITECTURES[architecture][-1]
        model.save_pretrained(folder / "checkpoint")
        origin = causal_lm.load(folder / "checkpoint", opset)
        save_model(causal_lm.export(origin, opset), path)
        return cls(model, origin, path, opset)

    @cached_property
    def runner(self) -> DecoderSession:
        """In ONNX Runtime, its optimizations off."""
        graph = self.graph()
        return DecoderSession(self.sizes(graph), open_session(graph, "exact"))

    def graph(self) -> ir.Model:
        """Read anew, so that a test may change it."""
        return load_model(self.path)

    @staticmethod
    def sizes(graph: ir.Model) -> Decoder:
        sizes = Decoder.of(graph)
        assert sizes is not None
        return sizes

    def alone(self, tokens: np.ndarray) -> np.ndarray:
        """Logits [tokens, vocab] of one text by torch: nothing beside it, no padding, no cache, no positions given."""
        with torch.no_grad():
            logits: torch.Tensor = self.torch_model(input_ids=torch.from_numpy(tokens)[None]).logits
        return logits[0].numpy()


def tokens(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(2, VOCABULARY, shape)
