"""What onnxruntime-genai needs beside the graph and the model's tokenizer: `genai_config.json`.

Source of the fields: onnxruntime-genai 0.18, src/config.h.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compressor.artifact import MODEL
from compressor.disk import write_json
from compressor.graph import decoder
from compressor.graph.decoder import Decoder

CONFIG = "genai_config.json"
# What a mask hides comes out of a Softmax as the smallest numbers there are, and products with such numbers take a
# processor three times as long as with zeros. It holds too for all else in the thread that opens the first such model.
SESSION = {"log_id": "onnxruntime-genai", "provider_options": [], "session.set_denormal_as_zero": "1"}


def write(folder: Path, config: Mapping[str, Any], sizes: Decoder, context: int) -> None:
    """Write the configuration for a graph with the interface of `compressor.graph.decoder`; greedy unless told."""
    heads = int(config.get("num_attention_heads") or config.get("n_head") or sizes.kv_heads)
    eos = config.get("eos_token_id")
    pad = config.get("pad_token_id")
    first_eos = eos[0] if isinstance(eos, list) else eos
    inputs = {name: name for name in (decoder.IDS, decoder.MASK, decoder.POSITIONS) if name in sizes.inputs}
    inputs |= {"past_key_names": "past_key_values.%d.key", "past_value_names": "past_key_values.%d.value"}
    outputs = {
        "logits": decoder.LOGITS,
        "present_key_names": "present.%d.key",
        "present_value_names": "present.%d.value",
    }
    model = {
        "type": "decoder",
        "vocab_size": sizes.vocab,
        "context_length": context,
        "bos_token_id": config.get("bos_token_id"),
        "eos_token_id": eos,
        "pad_token_id": first_eos if pad is None else pad,
        "decoder": {
            "session_options": SESSION,
            "filename": MODEL,
            "head_size": sizes.head_size,
            "hidden_size": config.get("hidden_size") or config.get("n_embd") or heads * sizes.head_size,
            "num_attention_heads": heads,
            "num_key_value_heads": sizes.kv_heads,
            "num_hidden_layers": sizes.layers,
            "inputs": inputs,
            "outputs": outputs,
        },
    }
    search = {"max_length": context, "do_sample": False, "num_beams": 1, "past_present_share_buffer": False}
    present = {name: value for name, value in model.items() if value is not None}
    write_json(folder / CONFIG, {"model": present, "search": search})
