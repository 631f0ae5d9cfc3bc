"""Architectures of transformers, each as a class and the sizes of a small random one: a row is all that differs.

Weights are drawn ten times as wide as training starts with: at 0.02 a mask or a position would hardly be felt.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers

VOCABULARY = 99
WIDE: dict[str, Any] = {"initializer_range": 0.2}
TOKENS: dict[str, Any] = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2, **WIDE}
TEXT = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 37, "max_position_embeddings": 64, **TOKENS}  # fmt: skip
IMAGE = {"image_size": 30, "patch_size": 10, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
         "intermediate_size": 37, **WIDE}  # fmt: skip
SOUND = {**TEXT, "conv_dim": (32,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}


class Row(NamedTuple):
    """A class with a head, and the sizes of its configuration."""

    model: str
    sizes: dict[str, Any]


ROWS = {
    "bert": Row("BertForMaskedLM", TEXT),
    "roberta": Row("RobertaForSequenceClassification", {**TEXT, "type_vocab_size": 1}),
    "distilbert": Row("DistilBertForQuestionAnswering", TEXT),
    "modernbert": Row("ModernBertForTokenClassification", {**TEXT, "local_attention": 4, "cls_token_id": 3,
                      "sep_token_id": 4, "global_attn_every_n_layers": 2}),
    "vit": Row("ViTModel", IMAGE),
    "resnet": Row("ResNetForImageClassification", {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}),
    "wav2vec2": Row("Wav2Vec2ForCTC", SOUND),
    "clip": Row("CLIPModel", {"text_config": TEXT, "vision_config": IMAGE, "projection_dim": 16}),
}  # fmt: skip


def write(name: str, folder: Path) -> Path:
    """A random checkpoint, the same for each call."""
    row = ROWS[name]
    model_class = getattr(transformers, row.model)
    torch.manual_seed(0)
    model_class(model_class.config_class(**row.sizes)).save_pretrained(folder)
    return folder
