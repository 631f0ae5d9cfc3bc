"""A decoder's graph, packed and paged: what many requests at once are served by.

    the interface of `compressor.graph.decoder`  ->  the interface of `compressor.graph.paged_decoder`

Each token of all requests goes through the layers as a row of its own: norms, products and MLPs are carried over
as they stand. Replaced is what looks at other tokens: positions, mask and cache (`paging.py`), and with them attention
(`paged_attention.py`). The interface is that of onnxruntime-genai's Engine (`dynamic_batching`). Weights stay in the
contiguous graph's data file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common_passes

from compressor.artifact import MODEL
from compressor.disk import write_json
from compressor.errors import RequestError
from compressor.graph import decoder
from compressor.graph.decoder import Decoder
from compressor.graph.paged_decoder import (
    BATCH,
    BLOCK_SIZE,
    CUMULATIVE,
    PAGED_CONFIG,
    PAGED_MODEL,
    PAST_LENGTHS,
    TABLE,
)
from compressor.graph.session import load_model
from compressor.package import attention, paged_attention, paging, window
from compressor.package.attention import CONTRIB, Attention
from compressor.package.cache_scales import Scales
from compressor.package.paging import Given, Pool, Step
from compressor.package.scribe import Scribe

OPSET, IR_VERSION = 24, 11  # the Attention whose mask ONNX Runtime takes row by row on the CPU

Target = Literal["cpu", "cuda"]
Cache = Literal["float32", "float16"] | Scales  # scales: codes of 8 bits


def write(folder: Path, context: int, target: Target = "cpu", cache: Cache | None = None) -> None:
    """Put the paged twin of a folder's `model.onnx` beside it, and what the Engine needs to know of it.

    context: the longest sequence, in which windows are measured.
    cache: what the pool holds; none: what the contiguous cache does, on CUDA half precision.

    Raises: RequestError when the attention of a layer cannot be paged, with the reason.
    """
    paged = convert(load_model(folder / MODEL), context, target, cache)
    ir.save(paged, folder / PAGED_MODEL)  # data in files stays there
    inputs = {name: name for name in (decoder.IDS, TABLE, CUMULATIVE, PAST_LENGTHS)}
    engine = {"dynamic_batching": {"block_size": BLOCK_SIZE}}
    write_json(
        folder / PAGED_CONFIG,
        {"model": {"decoder": {"filename": PAGED_MODEL, "inputs": inputs}}, "engine": engine},
    )


def convert(model: ir.Model, context: int, target: Target = "cpu", cache: Cache | None = None) -> ir.Model:
    """The packed and paged graph of a decoder; the given one is left as it is."""
    paged = model.clone()
    sizes = Decoder.of(paged)
    if sizes is None or decoder.POSITIONS not in sizes.inputs:
        raise RequestError(f"{model.graph.name}: no paged graph: it is no decoder with a cache and position_ids")
    layers = _with_windows(model, attention.find(paged, sizes), context)
    op, dtype = Scribe(paged.graph, "paged"), _cache_type(paged.graph)
    windows = sorted({layer.window for layer in layers})
    given, pools, step, unread = _enter(op, sizes, cache, _pool_type(target, cache, dtype), windows)
    if target == "cuda":
        paged.opset_imports[CONTRIB] = 1
    for layer in layers:
        pair = pools[2 * layer.layer : 2 * layer.layer + 2]
        rows = [_rows(op, value, layer) for value in _rotated(op, layer, step, pair[0])]
        if target == "cuda":
            attended, written = paged_attention.attend_on_cuda(op, layer, rows, pair, given, dtype)
        else:
            attended, written = paged_attention.attend_on_cpu(op, layer, rows, pair, step, dtype)
        _put_back(op, layer, attended, pair[1])
        for form, pool, value in zip((decoder.PRESENT_KEY, decoder.PRESENT_VALUE), pair, written, strict=True):
            _become_output(paged.graph, form.format(layer.layer), value, pool.value)
    _narrow(op, step, sizes)
    _finish(paged, unread)
    return paged


def _with_windows(model: ir.Model, layers: Sequence[Attention], context: int) -> list[Attention]:
    """The layers, each with the window that its mask turns out to have."""
    masks = sorted({str(layer.mask.name) for layer in layers if layer.mask is not None})
    windows = window.measure(model, masks, context)
    return [layer if layer.mask is None else replace(layer, window=windows[str(layer.mask.name)]) for layer in layers]


def _cache_type(graph: ir.Graph) -> ir.DataType:
    (dtype,) = {value.dtype for value in graph.inputs if str(value.name).startswith("past_key_values.")}
    assert dtype is not None
    return dtype


def _pool_type(target: Target, cache: Cache | None, own: ir.DataType) -> ir.DataType:
    if isinstance(cache, Mapping):
        return ir.DataType.INT8
    if target == "cuda" or cache == "float16":  # PagedAttention reads and writes half precision
        return ir.DataType.FLOAT16
    return ir.DataType.FLOAT if cache == "float32" else own


# --- into the graph and out of it ------------------------------------------------------------------------------------


def _enter(
    op: Scribe, sizes: Decoder, cache: Cache | None, pool_type: ir.DataType, windows: Sequence[int]
) -> tuple[Given, list[Pool], Step, dict[str, ir.Value]]:
    """New inputs. Inside, each packed token is a row, positions come from the lengths, and the past is empty.

    The last of the result: stand-ins that may be asked for their size, but that nobody may compute with.
    """
    graph = op.graph
    before = {str(value.name): value for value in graph.inputs}
    ids = _input(decoder.IDS, ir.DataType.INT64, ["num_tokens"])
    given = Given(
        _input(TABLE, ir.DataType.INT32, [BATCH, "max_num_blocks"]),
        _input(CUMULATIVE, ir.DataType.INT32, [f"{BATCH}_plus_one"]),
        _input(PAST_LENGTHS, ir.DataType.INT32, [BATCH]),
    )
    empties = {name: _empty(before[name]) for name in sizes.cache_names}
    scales: Scales = cache if isinstance(cache, Mapping) else {}
    pools = [
        Pool(_input(name, pool_type, ["num_blocks", "block_size", empty.shape[1], empty.shape[3]]), scales.get(name))
        for name, empty in empties.items()
    ]
    graph.inputs.clear()
    graph.inputs.extend([ids, given.table, given.cumulative, given.past, *(pool.value for pool in pools)])
    step = paging.plan(op, ids, given, pools[0].value, windows)
    rows = op("Unsqueeze", ids, [1])
    unread = {name: op.initializer(f"paged/empty {name}", empty) for name, empty in empties.items()}
    unread[decoder.MASK] = op("ConstantOfShape", op("Shape", rows), value=ir.tensor(np.ones(1, np.int64)))
    instead = {**unread, decoder.IDS: rows, decoder.POSITIONS: step.position}
    for name, value in before.items():
        ir.convenience.replace_all_uses_with(value, instead[name])
    return given, pools, step, unread


def _input(name: str, dtype: ir.DataType, shape: Sequence[int | str]) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))


def _empty(past: ir.Value) -> np.ndarray[Any, Any]:
    """A cache of no token: [1, heads, 0, size]."""
    assert past.shape is not None
    assert past.dtype is not None
    heads, size = past.shape[1], past.shape[3]
    assert isinstance(heads, int)  # held by Decoder.of
    assert isinstance(size, int)
    return np.zeros((1, heads, 0, size), past.dtype.numpy())


def _narrow(op: Scribe, step: Step, sizes: Decoder) -> None:
    """Logits of each request's last token; where the head is a product, it is computed for no other token."""
    outputs = op.graph.outputs
    logits = next(value for value in outputs if value.name == decoder.LOGITS)
    logits.name = "paged/logits"
    at, reader = logits, None
    while (node := at.producer()) is not None and (index := _moving(node)) is not None:
        reader, at = (node, index), node.inputs[index] or at
        if node.op_type in ("MatMul", "MatMulNBits"):
            break
    chosen = op("Gather", at, step.last)
    if reader is not None:
        reader[0].replace_input_with(reader[1], chosen)
    flat = op("Reshape", logits if reader else chosen, [-1, sizes.vocab])
    flat.name, flat.type, flat.shape = decoder.LOGITS, logits.type, ir.Shape([BATCH, sizes.vocab])
    outputs[list(outputs).index(logits)] = flat


def _moving(node: ir.Node) -> int | None:
    """The one input of a node that is no constant, if the node maps it token by token."""
    if node.op_type not in ("MatMul", "MatMulNBits", "Add", "Mul", "Div", "Tanh", "Cast", "Identity"):
        return None
    given = [(index, value) for index, value in enumerate(node.inputs) if value is not None]
    moving = [index for index, value in given if not _is_constant(value)]
    return moving[0] if len(moving) == 1 and (moving[0] == 0 or node.op_type != "MatMul") else None


def _is_constant(value: ir.Value) -> bool:
    """Whether a value depends on no input of the graph: a weight, or a weight transposed."""
    if ir.convenience.get_const_tensor(value) is not None:
        return True
    maker = value.producer()
    return maker is not None and all(_is_constant(given) for given in maker.inputs if given is not None)


def _finish(model: ir.Model, unread: Mapping[str, ir.Value]) -> None:
    """Drop what only the contiguous graph needed, and state the form."""
    graph = model.graph
    common_passes.RemoveUnusedNodesPass()(model)
    for name, value in unread.items():
        if reader := _computes_with(value):
            raise RequestError(f"{graph.name}: no paged graph: {reader} computes with {name} outside attention")
    for node in graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = None  # was stated for [batch, sequence]
    graph.sort()
    model.opset_imports[""], model.ir_version = OPSET, IR_VERSION


def _computes_with(value: ir.Value) -> str | None:
    """The operator that reads a value for more than its size."""
    for node in value.consumers():
        reader = _computes_with(node.outputs[0]) if node.op_type == "Identity" else node.op_type
        if reader not in (None, "Shape"):
            return reader
    return None


# --- around the attention of a layer ---------------------------------------------------------------------------------


def _rotated(op: Scribe, layer: Attention, step: Step, pool: Pool) -> list[ir.Value]:
    """Query, key and value; turned by their positions where the replaced operator did it itself."""
    turn = layer.rotary
    if turn is None:
        return [layer.query, layer.key, layer.value]
    shared = {"interleaved": turn.interleaved, "rotary_embedding_dim": turn.size, "domain": CONTRIB}
    turned = [
        op("RotaryEmbedding", value, step.position, turn.cos, turn.sin, num_heads=heads, **shared)
        for value, heads in ((layer.query, layer.heads), (layer.key, pool.sizes[0]))
    ]
    return [*turned, layer.value]


def _rows(op: Scribe, value: ir.Value, layer: Attention) -> ir.Value:
    """[tokens, heads, 1, size] -> [tokens, 1, heads, size]; [tokens, 1, heads * size] as it is."""
    if not layer.heads_first:
        return value
    maker = value.producer()
    split = maker.inputs[0] if maker is not None and _swaps_heads(maker) else None
    return split or op("Transpose", value, perm=[0, 2, 1, 3])


def _put_back(op: Scribe, layer: Attention, attended: ir.Value, pool: Pool) -> None:
    """[tokens, 1, heads * size] goes where the old attention's output went, in that one's layout."""
    if not layer.heads_first:
        ir.convenience.replace_all_uses_with(layer.output, attended)
        return
    split = op("Reshape", attended, [-1, 1, layer.heads, pool.sizes[1]])
    readers = [node for node in layer.output.consumers() if node.op_type != "Shape"]
    if len(readers) == 1 and _swaps_heads(readers[0]):
        ir.convenience.replace_all_uses_with(readers[0].outputs[0], split)
    ir.convenience.replace_all_uses_with(layer.output, op("Transpose", split, perm=[0, 2, 1, 3]))


def _swaps_heads(node: ir.Node) -> bool:
    perm = node.attributes.get("perm")
    return node.op_type == "Transpose" and perm is not None and list(perm.as_ints()) == [0, 2, 1, 3]


def _become_output(graph: ir.Graph, name: str, value: ir.Value, pool: ir.Value) -> None:
    """A written pool takes the place of the old cache output."""
    old = next(output for output in graph.outputs if output.name == name)
    graph.outputs[list(graph.outputs).index(old)] = value
    old.name = f"paged/unused {name}"
    value.name, value.type, value.shape = name, pool.type, pool.shape
