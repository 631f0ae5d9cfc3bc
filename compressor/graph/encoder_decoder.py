"""An encoder and the decoder behind it as their graphs show them: two files of one folder, a key and value a layer.

encoder_model.onnx   input_ids, attention_mask [batch, encoder sequence]   -> ... present.N.encoder.key / .value
decoder_model.onnx   input_ids [batch, sequence], encoder_attention_mask, past_key_values.N.encoder.key / .value,
                     past_key_values.N.decoder.key / .value [batch, heads, past, head_size]   -> logits, ...
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from compressor.graph.decoder import IDS, MASK, Feeds

ENCODER, DECODER = "encoder_model.onnx", "decoder_model.onnx"
ENCODER_MASK = "encoder_attention_mask"
PAST, PRESENT = "past_key_values", "present"


def is_encoder(model: ir.Model) -> bool:
    """Whether a decoder reads what the graph makes of text alone; a decoder without a past makes the same of states."""
    read, made = ([str(value.name) for value in side] for side in (model.graph.inputs, model.graph.outputs))
    return {*read} <= {IDS, MASK} and any(name.startswith(f"{PRESENT}.") and ".encoder." in name for name in made)


def states(model: ir.Model) -> dict[str, str]:
    """The inputs of a decoder that its encoder makes, each with its name among the encoder's outputs."""
    names = [str(value.name) for value in model.graph.inputs]
    return {
        name: name.replace(PAST, PRESENT, 1) for name in names if name.startswith(f"{PAST}.") and ".encoder." in name
    }


def empty_past(model: ir.Model, batch: int) -> Feeds:
    """A decoder's own cache before its first token, as far as the graph states its heads and their size."""
    found: Feeds = {}
    for one in model.graph.inputs:
        if not str(one.name).startswith(f"{PAST}.") or ".decoder." not in str(one.name) or one.dtype is None:
            continue
        match [*(one.shape or ())]:
            case [_, int(heads), _, int(size)]:
                found[str(one.name)] = np.zeros((batch, heads, 0, size), one.dtype.numpy())
    return found
