"""Architectures of transformers, each as a class and the sizes of a small random one: a row is all that differs.

Weights are drawn ten times as wide as training starts with: at 0.02 a mask or a position would hardly be felt. Biases,
norms and running statistics, which start as zeros and ones, are drawn too: a bias that is lost or added twice is felt.
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
DECODER = {**TEXT, "hidden_size": 64, "intermediate_size": 172, "num_key_value_heads": 2}
FEW_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
WINDOW = {"sliding_window": 4}  # shorter than what the proof reads
IMAGE = {"image_size": 32, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
         "intermediate_size": 37, **WIDE}  # fmt: skip
STAGES = {"image_size": 32, "hidden_sizes": [8, 16, 16, 16], "depths": [1, 1, 1, 1], **WIDE}
WINDOWS = {"image_size": 32, "patch_size": 2, "embed_dim": 8, "depths": [1, 2], "num_heads": [2, 2], "window_size": 4,
           **WIDE}  # fmt: skip
SOUND = {**TEXT, "conv_dim": (32,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
PAIR = {"vocab_size": VOCABULARY, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2,
        "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 37, "decoder_ffn_dim": 37,
        "max_position_embeddings": 64, "init_std": 0.2, **TOKENS}  # fmt: skip
T5 = {"vocab_size": VOCABULARY, "d_model": 32, "d_kv": 8, "d_ff": 37, "num_layers": 2, "num_heads": 4,
      "decoder_start_token_id": 0}  # fmt: skip
WHISPER = {**PAIR, "num_mel_bins": 16, "max_source_positions": 30, "max_target_positions": 64,
           "decoder_start_token_id": 3, "suppress_tokens": None, "begin_suppress_tokens": None}  # fmt: skip


class Row(NamedTuple):
    """A class with a head, and the sizes of its configuration."""

    model: str
    sizes: dict[str, Any]


def text(**own: Any) -> dict[str, Any]:
    return TEXT | own


def decoder(**own: Any) -> dict[str, Any]:
    return DECODER | own


ROWS = {
    # decoders
    "llama": Row("LlamaForCausalLM", decoder(tie_word_embeddings=True)),
    "mistral": Row("MistralForCausalLM", decoder(**WINDOW)),
    "ministral": Row("MinistralForCausalLM", decoder(head_dim=16, **WINDOW)),
    "qwen2": Row("Qwen2ForCausalLM", decoder()),
    "qwen3": Row("Qwen3ForCausalLM", decoder(head_dim=32)),
    "gemma": Row("GemmaForCausalLM", decoder(head_dim=16)),
    "gemma2": Row("Gemma2ForCausalLM", decoder(head_dim=16, query_pre_attn_scalar=16, **WINDOW)),
    "gemma3_text": Row("Gemma3ForCausalLM", decoder(head_dim=16, query_pre_attn_scalar=16, sliding_window_pattern=2,
                                                    **WINDOW)),
    "phi": Row("PhiForCausalLM", decoder()),
    "phi3": Row("Phi3ForCausalLM", decoder()),
    "gpt2": Row("GPT2LMHeadModel", text(n_positions=64)),
    "gpt_bigcode": Row("GPTBigCodeForCausalLM", text(n_positions=64)),
    "gpt_neo": Row("GPTNeoForCausalLM", {"vocab_size": VOCABULARY, "hidden_size": 32, "num_layers": 2, "num_heads": 4,
                   "attention_types": [[["global", "local"], 1]], "window_size": 4, "max_position_embeddings": 64,
                   **TOKENS}),
    "gpt_neox": Row("GPTNeoXForCausalLM", text()),
    "gptj": Row("GPTJForCausalLM", {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4,
                                    "n_positions": 64, **TOKENS}),
    "codegen": Row("CodeGenForCausalLM", {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4,
                                          "rotary_dim": 4, "n_positions": 64, **TOKENS}),
    "opt": Row("OPTForCausalLM", text(ffn_dim=37, word_embed_proj_dim=32, init_std=0.2)),
    "bloom": Row("BloomForCausalLM", {"vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 2, "n_head": 4,
                                      **TOKENS}),
    "mpt": Row("MptForCausalLM", {"vocab_size": VOCABULARY, "d_model": 32, "n_layers": 2, "n_heads": 4,
                                  "max_seq_len": 64, **TOKENS}),
    "falcon": Row("FalconForCausalLM", text(multi_query=True, new_decoder_architecture=False)),
    "mixtral": Row("MixtralForCausalLM", decoder(num_local_experts=4)),
    "qwen2_moe": Row("Qwen2MoeForCausalLM", decoder(shared_expert_intermediate_size=24, **FEW_EXPERTS)),
    "qwen3_moe": Row("Qwen3MoeForCausalLM", decoder(head_dim=16, **FEW_EXPERTS)),
    "granitemoe": Row("GraniteMoeForCausalLM", decoder(num_local_experts=4, num_experts_per_tok=2)),
    "olmo": Row("OlmoForCausalLM", decoder()),
    "olmo2": Row("Olmo2ForCausalLM", decoder()),
    "olmo3": Row("Olmo3ForCausalLM", decoder(**WINDOW)),
    "cohere": Row("CohereForCausalLM", decoder()),
    "cohere2": Row("Cohere2ForCausalLM", decoder(**WINDOW)),
    "stablelm": Row("StableLmForCausalLM", decoder()),
    "starcoder2": Row("Starcoder2ForCausalLM", decoder(**WINDOW)),
    "granite": Row("GraniteForCausalLM", decoder()),
    "smollm3": Row("SmolLM3ForCausalLM", decoder()),
    "glm": Row("GlmForCausalLM", decoder(head_dim=16)),
    "glm4": Row("Glm4ForCausalLM", decoder(head_dim=16)),
    "nemotron": Row("NemotronForCausalLM", decoder()),
    "persimmon": Row("PersimmonForCausalLM", text()),
    "helium": Row("HeliumForCausalLM", decoder(head_dim=16)),
    "arcee": Row("ArceeForCausalLM", decoder()),
    "exaone4": Row("Exaone4ForCausalLM", decoder(sliding_window_pattern=2, **WINDOW)),
    "seed_oss": Row("SeedOssForCausalLM", decoder(head_dim=16)),
    "ernie4_5": Row("Ernie4_5ForCausalLM", decoder(head_dim=16)),
    # text
    "bert": Row("BertForMaskedLM", TEXT),
    "roberta": Row("RobertaForSequenceClassification", text(type_vocab_size=1)),
    "distilbert": Row("DistilBertForQuestionAnswering", TEXT),
    "albert": Row("AlbertForMaskedLM", text(embedding_size=16)),
    "electra": Row("ElectraForSequenceClassification", text(embedding_size=16)),
    "deberta": Row("DebertaForMaskedLM", text(relative_attention=True, pos_att_type=["p2c", "c2p"])),
    "deberta-v2": Row("DebertaV2ForTokenClassification", text(relative_attention=True, pos_att_type=["p2c", "c2p"],
                                                              position_buckets=8)),
    "mpnet": Row("MPNetModel", TEXT),
    "xlm-roberta": Row("XLMRobertaForTokenClassification", text(type_vocab_size=1)),
    "camembert": Row("CamembertForMaskedLM", text(type_vocab_size=1)),
    "modernbert": Row("ModernBertForTokenClassification", text(local_attention=4, cls_token_id=3, sep_token_id=4,
                                                               global_attn_every_n_layers=2)),
    "roformer": Row("RoFormerForMaskedLM", text(embedding_size=32)),
    "convbert": Row("ConvBertForMaskedLM", text(embedding_size=32)),
    "mobilebert": Row("MobileBertForMaskedLM", text(hidden_size=64, embedding_size=32, intra_bottleneck_size=32)),
    "squeezebert": Row("SqueezeBertForMaskedLM", text(embedding_size=32, intermediate_size=64)),
    "megatron-bert": Row("MegatronBertForMaskedLM", TEXT),
    "rembert": Row("RemBertForSequenceClassification", text(input_embedding_size=16)),
    "ernie": Row("ErnieForMaskedLM", TEXT),
    "xlnet": Row("XLNetForSequenceClassification", {"vocab_size": VOCABULARY, "d_model": 32, "n_layer": 2, "n_head": 4,
                 "d_inner": 37, **TOKENS}),
    "llama as classifier": Row("LlamaForSequenceClassification", decoder()),
    # images
    "vit": Row("ViTModel", IMAGE),
    "deit": Row("DeiTForImageClassification", IMAGE),
    "beit": Row("BeitForImageClassification", IMAGE),
    "swin": Row("SwinForImageClassification", WINDOWS),
    "swinv2": Row("Swinv2ForImageClassification", WINDOWS),
    "convnext": Row("ConvNextForImageClassification", STAGES),
    "convnextv2": Row("ConvNextV2ForImageClassification", STAGES),
    "resnet": Row("ResNetForImageClassification", {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}),
    "regnet": Row("RegNetForImageClassification", {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1],
                                                   "groups_width": 4}),
    "mobilenet_v1": Row("MobileNetV1ForImageClassification", {"image_size": 32, "depth_multiplier": 0.25, **WIDE}),
    "mobilenet_v2": Row("MobileNetV2ForImageClassification", {"image_size": 32, "depth_multiplier": 0.25, **WIDE}),
    "mobilevit": Row("MobileViTForImageClassification", {"image_size": 32, "hidden_sizes": [16, 16, 16],
                     "neck_hidden_sizes": [8, 8, 8, 8, 8, 8, 16], "num_attention_heads": 4, **WIDE}),
    "dinov2": Row("Dinov2Model", IMAGE),
    "segformer": Row("SegformerForSemanticSegmentation", {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1],
                     "num_attention_heads": [1, 2, 2, 4], "decoder_hidden_size": 16, **WIDE}),
    "poolformer": Row("PoolFormerForImageClassification", {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}),
    "levit": Row("LevitForImageClassification", {"image_size": 64, "hidden_sizes": [16, 32, 32], "depths": [1, 1, 1],
                 "num_attention_heads": [2, 2, 2], "key_dim": [4, 4, 4], "down_ops": [["Subsample", 4, 8, 4, 2, 2],
                 ["Subsample", 4, 16, 4, 2, 2]]}),
    # text and images
    "clip": Row("CLIPModel", {"text_config": TEXT, "vision_config": IMAGE, "projection_dim": 16}),
    "siglip": Row("SiglipModel", {"text_config": TEXT, "vision_config": IMAGE}),
    # sound
    "wav2vec2": Row("Wav2Vec2ForCTC", SOUND),
    "hubert": Row("HubertForCTC", SOUND),
    "wavlm": Row("WavLMForSequenceClassification", SOUND),
    "audio-spectrogram-transformer": Row("ASTForAudioClassification", {"hidden_size": 32, "num_hidden_layers": 2,
                                         "num_attention_heads": 4, "intermediate_size": 37, "max_length": 64,
                                         "num_mel_bins": 32, **WIDE}),
    # encoder and decoder
    "t5": Row("T5ForConditionalGeneration", T5),
    "mt5": Row("MT5ForConditionalGeneration", T5),
    "bart": Row("BartForConditionalGeneration", PAIR),
    "mbart": Row("MBartForConditionalGeneration", PAIR),
    "marian": Row("MarianMTModel", PAIR | {"decoder_start_token_id": 2}),
    "pegasus": Row("PegasusForConditionalGeneration", PAIR),
    "m2m_100": Row("M2M100ForConditionalGeneration", PAIR),
    "blenderbot": Row("BlenderbotForConditionalGeneration", PAIR),
    "whisper": Row("WhisperForConditionalGeneration", WHISPER),
}  # fmt: skip


def write(name: str, folder: Path, **other: Any) -> Path:
    """A random checkpoint, the same for each call; `other` sizes than its row has, on request."""
    row = ROWS[name]
    model_class = getattr(transformers, row.model)
    torch.manual_seed(0)
    model = model_class(model_class.config_class(**row.sizes | other))
    _leave_the_start(model)
    model.save_pretrained(folder)
    return folder


@torch.no_grad()
def _leave_the_start(model: torch.nn.Module) -> None:
    """Biases, and what norms scale and move by, near the zeros and ones that training starts with, and not at them."""
    for one in model.parameters():
        if one.ndim == 1:
            one.add_(0.1 * torch.randn_like(one))
    for name, one in model.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            one.add_(0.1 * torch.rand_like(one))
