"""An encoder and the decoder behind it as their graphs show them: two files of one folder, a key and value a layer.

encoder_model.onnx   input_ids, attention_mask [batch, encoder sequence]   -> ... present.N.encoder.key / .value
decoder_model.onnx   input_ids [batch, sequence], encoder_attention_mask, past_key_values.N.encoder.key / .value,
                     past_key_values.N.decoder.key / .value [batch, heads, past, head_size]   -> logits, ...
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from compressor.graph.decoder import Feeds

ENCODER, DECODER = "encoder_model.onnx", "decoder_model.onnx"
ENCODER_MASK = "encoder_attention_mask"
PAST, PRESENT = "past_key_values", "present"


def is_encoder(model: ir.Model) -> bool:
    """Whether a decoder reads what the graph makes."""
    return any(
        str(value.name).startswith(f"{PRESENT}.") and ".encoder." in str(value.name) for value in model.graph.outputs
    )


def states(model: ir.Model) -> dict[str, str]:
    """The inputs of a decoder that its encoder makes, each with its name among the encoder's outputs."""
    names = [str(value.name) for value in model.graph.inputs]
    return {
        name: name.replace(PAST, PRESENT, 1) for name in names if name.startswith(f"{PAST}.") and ".encoder." in name
    }


def empty_past(model: ir.Model, batch: int) -> Feeds:
    """A decoder's own cache before its first token."""
    own = [one for one in model.graph.inputs if str(one.name).startswith(f"{PAST}.") and ".decoder." in str(one.name)]
    shapes = ((batch, one.shape[1], 0, one.shape[3]) for one in own if one.shape is not None)
    types = (one.dtype.numpy() for one in own if one.dtype is not None)
    return {
        str(one.name): np.zeros([int(str(size)) for size in shape], dtype)
        for one, shape, dtype in zip(own, shapes, types, strict=True)
    }
