"""Find the attention of each layer of a decoder's graph by its cache: what it attends with, and how.

    past_key_values.N.key -> Concat -> present.N.key -> ... -> MatMul -> ... -> Softmax -> MatMul     (eager)
                                                     -> ... -> Attention                              (opset 23)
    past_key_values.N.key -> GroupQueryAttention -> present.N.key                                     (fused)

Nothing is matched by the position or the name of a node. What is between the scores and the Softmax is read off as
scale, softcap and mask; anything else is refused with its name, since it would be lost silently otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from compressor.errors import RequestError
from compressor.graph import decoder

CONTRIB = "com.microsoft"
# What moves numbers about without changing them, on the way from the cache to the product.
LAYOUT = {"Identity", "Slice", "Unsqueeze", "Squeeze", "Expand", "Reshape", "Transpose", "Cast", "Flatten"}
HARMLESS = {"Identity", "Cast", "Dropout"}
ALL_TOKENS = 0
BIAS = 10  # inputs of GroupQueryAttention: the mask; sinks and norms come after


@dataclass(frozen=True)
class Rotary:
    """Rotary embedding that the operator applies itself, from tables of cosines and sines."""

    cos: ir.Value  # [positions, size / 2]
    sin: ir.Value
    size: int  # dimensions of a head that turn
    interleaved: int


@dataclass(frozen=True)
class Attention:
    """One layer's attention: softmax(softcap(scale q k^T) where visible) v, over this call's tokens and the cache."""

    layer: int
    query: ir.Value
    key: ir.Value  # of this call's tokens alone
    value: ir.Value
    output: ir.Value
    heads_first: bool  # [batch, heads, sequence, head], else [batch, sequence, heads * head]
    heads: int
    scale: float
    softcap: float = 0.0
    mask: ir.Value | None = None  # what says which keys are visible
    window: int = ALL_TOKENS  # newest keys that a query sees, itself among them
    rotary: Rotary | None = None


def find(model: ir.Model, sizes: decoder.Decoder) -> list[Attention]:
    """The attention of every layer. Raises: RequestError with the layer and what stands in the way."""
    return [_of_layer(model, layer, sizes) for layer in range(sizes.layers)]


def _of_layer(model: ir.Model, layer: int, sizes: decoder.Decoder) -> Attention:
    outputs = {value.name: value for value in model.graph.outputs}
    key = _through(outputs[decoder.PRESENT_KEY.format(layer)], {"Identity"})
    value = _through(outputs[decoder.PRESENT_VALUE.format(layer)], {"Identity"})
    maker = key.producer()
    if maker is None:
        raise _refusal(layer, "its cache is handed through without a new token")
    if maker.op_type == "GroupQueryAttention":
        return _group_query(layer, maker, sizes)
    if maker.op_type == "Attention":
        return _operator(layer, maker, maker.inputs[1], maker.inputs[2], sizes)
    new_key, new_value = _appended(layer, key), _appended(layer, value)
    reader = next((node for node in _readers(key) if node.op_type in ("MatMul", "Attention")), None)
    if reader is None:
        raise _refusal(layer, "no MatMul or Attention reads its keys")
    if reader.op_type == "Attention":
        return _operator(layer, reader, new_key, new_value, sizes)
    return _eager(layer, reader, (key, new_key), (value, new_value))


# --- the three forms -------------------------------------------------------------------------------------------------


def _group_query(layer: int, node: ir.Node, sizes: decoder.Decoder) -> Attention:
    """com.microsoft.GroupQueryAttention: the semantics are its attributes."""
    unusual = [index for index, given in enumerate(node.inputs) if given is not None and index > BIAS]
    if unusual or node.inputs[1] is None:
        raise _refusal(layer, f"GroupQueryAttention with packed heads, sinks or norms (inputs {unusual})")
    query, key, value = (_given(node, index) for index in range(3))
    rotary = None
    if node.attributes.get_int("do_rotary", 0):
        cos, sin = _given(node, 7), _given(node, 8)
        table = ir.convenience.get_const_tensor(cos)
        if table is None:
            raise _refusal(layer, "GroupQueryAttention whose rotary tables are no constants")
        rotary = Rotary(cos, sin, 2 * table.numpy().shape[1], node.attributes.get_int("rotary_interleaved", 0))
    return Attention(
        layer,
        query,
        key,
        value,
        node.outputs[0],
        heads_first=False,
        heads=node.attributes.get_int("num_heads", 0),
        scale=node.attributes.get_float("scale", 0.0) or sizes.head_size**-0.5,
        softcap=node.attributes.get_float("softcap", 0.0),
        mask=node.inputs[BIAS] if len(node.inputs) > BIAS else None,
        window=max(node.attributes.get_int("local_window_size", -1), ALL_TOKENS),
        rotary=rotary,
    )


def _operator(
    layer: int, node: ir.Node, new_key: ir.Value | None, new_value: ir.Value | None, sizes: decoder.Decoder
) -> Attention:
    """The standard Attention operator, the cache joined before it or by it."""
    query = _given(node, 0)
    heads_first = query.shape is not None and len(query.shape) == 4
    if new_key is None or new_value is None or (new_key.shape is not None and len(new_key.shape) != 4) == heads_first:
        raise _refusal(layer, "Attention whose keys lie otherwise than its queries")
    heads = _axis(query, 1, layer) if heads_first else node.attributes.get_int("q_num_heads", 0)
    return Attention(
        layer,
        query,
        new_key,
        new_value,
        node.outputs[0],
        heads_first=heads_first,
        heads=heads,
        scale=node.attributes.get_float("scale", 0.0) or sizes.head_size**-0.5,
        softcap=node.attributes.get_float("softcap", 0.0),
        mask=node.inputs[3] if len(node.inputs) > 3 else None,
    )


def _eager(
    layer: int,
    scores: ir.Node,
    keys: tuple[ir.Value, ir.Value],
    values: tuple[ir.Value, ir.Value],
) -> Attention:
    """MatMul, scale, softcap, mask, Softmax, MatMul, as the model's own code writes it."""
    query = _given(scores, 0)
    scale = _scale_between(keys[0], _given(scores, 1), layer)
    found = Attention(
        layer, query, keys[1], values[1], query, heads_first=True, heads=_axis(query, 1, layer), scale=scale
    )
    found, softmax = _to_softmax(found, scores.outputs[0], layer)
    product = _weighted_sum(softmax.outputs[0], values[0], layer)
    return replace(found, output=product.outputs[0])


def _to_softmax(found: Attention, at: ir.Value, layer: int) -> tuple[Attention, ir.Node]:
    """The attention with what happens to its scores on their way, and the Softmax that they come to."""
    capped = False
    while (node := _only_consumer(at, layer)).op_type != "Softmax":
        other = next((given for given in node.inputs if given is not None and given is not at), None)
        factor = None if other is None else _scalar(other)
        if node.op_type in ("Mul", "Div") and factor is not None:
            factor = 1 / factor if node.op_type == "Div" else factor
            found = replace(found, softcap=factor) if capped else replace(found, scale=found.scale * factor)
        elif node.op_type == "Tanh" and not capped:
            capped = True
        elif node.op_type == "Add" and found.mask is None:
            found = replace(found, mask=other)
        elif node.op_type == "Where" and found.mask is None and node.inputs[1] is at:
            found = replace(found, mask=node.inputs[0])
        elif node.op_type not in HARMLESS:
            raise _refusal(layer, f"{node.op_type} between scores and Softmax")
        at = node.outputs[0]
    if capped:  # cap * tanh(a q k^T): the operators want the scale before the division by the cap
        found = replace(found, scale=found.scale * found.softcap)
    return found, node


# --- walking the graph -----------------------------------------------------------------------------------------------


def _appended(layer: int, present: ir.Value) -> ir.Value:
    """What this call adds to the cache: present = Concat(past, new)."""
    node = present.producer()
    if node is None or node.op_type != "Concat" or len(node.inputs) != 2:
        raise _refusal(layer, f"its cache comes from {node.op_type if node else 'an input'}, not from past and new")
    past = _through(_given(node, 0), {"Identity"})
    if not past.is_graph_input():
        raise _refusal(layer, "its cache is not the past followed by the new")
    return _given(node, 1)


def _readers(value: ir.Value) -> Iterator[ir.Node]:
    """Nodes that read a value, through those that only move it, nearest first."""
    queue = [value]
    while queue:
        for node in queue.pop(0).consumers():
            if node.op_type in LAYOUT or (node.op_type == "Mul" and any(map(_is_scalar, node.inputs))):
                queue.append(node.outputs[0])
            elif node.op_type != "Shape":
                yield node


def _weighted_sum(weights: ir.Value, values: ir.Value, layer: int) -> ir.Node:
    """The MatMul of attention weights and values; only harmless nodes between Softmax and it."""
    node = _only_consumer(weights, layer)
    while node.op_type in HARMLESS:
        node = _only_consumer(node.outputs[0], layer)
    if node.op_type != "MatMul" or node not in set(_readers(values)):
        raise _refusal(layer, f"{node.op_type} after the Softmax, where values should be weighted")
    return node


def _scale_between(start: ir.Value, end: ir.Value, layer: int) -> float:
    """Product of the scalars that a value is multiplied by on its way."""
    scale, at = 1.0, end
    while at is not start:
        node = at.producer()
        if node is None:
            raise _refusal(layer, "its keys do not come from the cache alone")
        factors = [_scalar(given) for given in node.inputs if given is not None] if node.op_type == "Mul" else []
        scale *= next((factor for factor in factors if factor is not None), 1.0)
        at = next(given for given in node.inputs if given is not None and not _is_scalar(given))
    return scale


def _only_consumer(value: ir.Value, layer: int) -> ir.Node:
    nodes = [node for node in value.consumers() if node.op_type != "Shape"]
    if len(nodes) != 1:
        raise _refusal(layer, f"{len(nodes)} nodes read {value.name}, where one is expected")
    return nodes[0]


def _through(value: ir.Value, op_types: set[str]) -> ir.Value:
    """The value before nodes that change nothing."""
    while (node := value.producer()) is not None and node.op_type in op_types:
        value = _given(node, 0)
    return value


def _is_scalar(value: ir.Value | None) -> bool:
    return value is not None and _scalar(value) is not None


def _scalar(value: ir.Value) -> float | None:
    """The number of a constant with one element."""
    tensor = ir.convenience.get_const_tensor(value)
    if tensor is None or tensor.size != 1:
        return None
    return float(np.asarray(tensor.numpy()).reshape(-1)[0])


def _axis(value: ir.Value, axis: int, layer: int) -> int:
    size = None if value.shape is None else value.shape[axis]
    if not isinstance(size, int):
        raise _refusal(
            layer, f"{value.name} states no number of heads, as where they are folded into the batch (Bloom)"
        )
    return size


def _given(node: ir.Node, index: int) -> ir.Value:
    value = node.inputs[index]
    assert value is not None  # operators name these inputs as required
    return value


def _refusal(layer: int, why: str) -> RequestError:
    return RequestError(f"layer {layer}: no paged attention: {why}")
