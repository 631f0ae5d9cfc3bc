"""Rotations: the residual stream, and each head's values, in axes along which no channel is louder than the others.

    Ashkboos et al.: QuaRot, 2024 (arXiv 2404.00456), section 4, stages 1a and 1b without the online transforms.
    Liu et al.: SpinQuant, 2024 (arXiv 2405.16406): R1 and R2.

    R1    h' = h Q:    E' = E Q     writers W' = W Q     readers W' = Q^T (g W)     norms g' = 1       Q^T Q = 1
    R2    v' = v H in every head:    W_v' = W_v H        W_o' = H^T W_o

RMS norms see lengths alone, which Q keeps, once their weights g stand in the products that read them; the rest is in
the weights, so the graph computes what it did with the nodes it had. Q is a Hadamard matrix with random signs; where
the width is no power of two, times a cosine transform of its odd factor.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray

from compressor.errors import RequestError
from compressor.quantize.constants import constant, replace
from compressor.quantize.flow.linears import Linear, as_linear

MICROSOFT = "com.microsoft"
# Norms that keep a rotation: where their input, or their sum's inputs, and their weight stand.
NORMS: dict[tuple[str, str], tuple[tuple[int, ...], int]] = {
    ("", "RMSNormalization"): ((0,), 1),
    ("", "SimplifiedLayerNormalization"): ((0,), 1),
    (MICROSOFT, "SimplifiedLayerNormalization"): ((0,), 1),
    (MICROSOFT, "SkipSimplifiedLayerNormalization"): ((0, 1), 2),
}
SUM = 3  # output of a SkipSimplifiedLayerNormalization
ATTENTION = (MICROSOFT, "GroupQueryAttention")
VALUE = 2
SKIP_BIAS = 3  # added to the sum of a SkipSimplifiedLayerNormalization
Matrix = NDArray[np.float64]


@dataclass
class Stream:
    """What reads, writes and carries the residual stream of a graph."""

    embeddings: list[ir.Node] = field(default_factory=list)
    writers: list[Linear] = field(default_factory=list)
    biases: list[tuple[ir.Node, int]] = field(default_factory=list)
    norms: list[tuple[ir.Node, int]] = field(default_factory=list)
    readers: list[tuple[Linear, Matrix]] = field(default_factory=list)  # with the weight of their norm

    @property
    def width(self) -> int:
        return self.readers[0][0].shape[0]


def rotate(model: ir.Model, *, untie: bool, seed: int) -> list[dict[str, Any]]:
    """Rotate the graph in place. Returns a row for the stream and one for the heads.

    Raises: RequestError with the node that a rotation cannot pass.
    """
    stream = find_stream(model)
    tables = [table for node in stream.embeddings if (table := node.inputs[0]) is not None]
    tied = [table for table in tables if len(table.uses()) > 1]
    if tied and not untie:
        raise RequestError(
            f"quantize.rotations: '{tied[0].name}' is embedding and head at once, and the two are rotated "
            "apart; set quantize.rotations.untie, which stores it twice"
        )
    heads = find_heads(model)
    _rotate_stream(model.graph, stream, orthogonal(stream.width, seed))
    for value, output, size in heads:
        _rotate_heads(model.graph, value, output, orthogonal(size, seed))
    names = [one.name for one in (*stream.writers, *(linear for linear, _ in stream.readers))]
    row = {"method": "rotations", "alpha": None, "error_ratio": None}
    return [
        {**row, "input": "residual stream", "weights": names},
        {**row, "input": "values of heads", "weights": [value.name for value, _, _ in heads]},
    ]


def find_stream(model: ir.Model) -> Stream:
    """Follow the stream from the embedding to every reader. Raises: RequestError."""
    found, seen, waiting = Stream(), dict[ir.Value, None](), list[ir.Value]()
    for node in model.graph:
        table = constant(node.inputs[0]) if node.op_type == "Gather" and not node.domain else None
        if table is not None and table.ndim == 2 and node.attributes.get_int("axis", 0) == 0:
            found.embeddings.append(node)
            waiting.append(node.outputs[0])
    linears = {linear.y: linear for node in model.graph if (linear := as_linear(node))}
    while waiting:
        value = waiting.pop()
        if value in seen:
            continue
        if value.is_graph_output():
            raise _refused(value, "is an output of the graph")
        seen[value] = None
        for use in value.uses():
            waiting += _follow(use.node, use.idx, found, linears)
    _close(found, seen, linears)
    if not found.readers:
        raise RequestError("quantize.rotations: no residual stream from an embedding to RMS norms; leave rotations out")
    return found


def _follow(node: ir.Node, at: int, found: Stream, linears: dict[ir.Value, Linear]) -> list[ir.Value]:
    """The values that carry the stream on behind one of its readers."""
    key = (node.domain, node.op_type)
    if key in NORMS and at in NORMS[key][0]:
        gain = constant(node.inputs[NORMS[key][1]])
        if gain is None:
            raise _refused(node.outputs[0], "is a norm whose weight is no constant")
        if (node, NORMS[key][1]) not in found.norms:
            found.norms.append((node, NORMS[key][1]))
            found.readers += [(linear, gain.astype(np.float64)) for linear in _readers(node.outputs[0], linears)]
        return [node.outputs[SUM]] if len(node.outputs) > SUM and node.outputs[SUM].uses() else []
    if key == ("", "Add") or (key == ("", "Mul") and _is_number(node.inputs[1 - at])) or key == ("", "Identity"):
        return [node.outputs[0]]
    raise _refused(node.outputs[0], f"is a {node.op_type}, which a rotation does not pass")


def _readers(value: ir.Value, linears: dict[ir.Value, Linear]) -> list[Linear]:
    """The products that read a norm; nothing else may."""
    found = [linears.get(use.node.outputs[0]) for use in value.uses()]
    if value.is_graph_output() or not all(one is not None and one.x is value for one in found):
        raise _refused(value, "is read by more than products with constant weights")
    return [one for one in found if one is not None]


def _close(found: Stream, seen: Collection[ir.Value], linears: dict[ir.Value, Linear]) -> None:
    """Whatever is added to the stream has to be a product whose columns can be rotated."""
    sums = [*(value.producer() for value in seen), *(node for node, _ in found.norms)]
    for node in dict.fromkeys(sums):
        if node is None or node in found.embeddings or node.op_type in ("Mul", "Identity"):
            continue
        adds = node.op_type == "Add" or len(NORMS[node.domain, node.op_type][0]) > 1
        for value in node.inputs[:2] if adds else ():
            if value is not None and value not in seen:
                _add_writer(value, found, linears)
        if node.op_type.startswith("Skip") and len(node.inputs) > SKIP_BIAS and node.inputs[SKIP_BIAS] is not None:
            found.biases.append((node, SKIP_BIAS))


def _add_writer(value: ir.Value, found: Stream, linears: dict[ir.Value, Linear]) -> None:
    node = value.producer()
    if value not in linears and node is not None and node.op_type == "Add":  # MatMul and its bias
        at = next((at for at in (0, 1) if constant(node.inputs[at]) is not None), None)
        product = node.inputs[1 - at] if at is not None else None
        if at is not None and product is not None:
            found.biases.append((node, at))
            value = product
    writer = linears.get(value)
    if writer is None or len(value.uses()) != 1:
        raise _refused(value, "joins the residual stream and is no product with a constant weight")
    found.writers.append(writer)
    if writer.bias is not None:
        found.biases.append((writer.node, 2))


def find_heads(model: ir.Model) -> list[tuple[Linear, Linear, int]]:
    """The product that makes the values of an attention, the one that reads what it sums up, and a head's width."""
    found = []
    linears = {linear.y: linear for node in model.graph if (linear := as_linear(node))}
    for node in model.graph:
        values = node.inputs[VALUE] if (node.domain, node.op_type) == ATTENTION else None
        if values is None:
            continue
        value = linears.get(values)
        readers = [linears.get(use.node.outputs[0]) for use in node.outputs[0].uses()]
        alone = value is not None and len(value.y.uses()) == 1 and value.bias is None
        if value is not None and alone and len(readers) == 1 and readers[0] is not None:
            found.append((value, readers[0], value.shape[1] // node.attributes["kv_num_heads"].as_int()))
    return found


def _rotate_stream(graph: ir.Graph, stream: Stream, Q: Matrix) -> None:
    for linear, gain in stream.readers:
        weight = linear.read().double().numpy()
        replace(graph, *linear.holder, linear.stored(torch.from_numpy(Q.T @ (gain.reshape(-1, 1) * weight))))
    for linear in stream.writers:
        replace(graph, *linear.holder, linear.stored(torch.from_numpy(linear.read().double().numpy() @ Q)))
    for node, at in (*((node, 0) for node in stream.embeddings), *stream.biases):
        array = constant(node.inputs[at])
        assert array is not None  # held by find_stream
        replace(graph, node, at, array.astype(np.float64) @ Q)
    for node, at in stream.norms:
        array = constant(node.inputs[at])
        assert array is not None  # held by find_stream
        replace(graph, node, at, np.ones_like(array))


def _rotate_heads(graph: ir.Graph, value: Linear, output: Linear, H: Matrix) -> None:
    columns = value.read().double().numpy()
    rotated = (columns.reshape(len(columns), -1, len(H)) @ H).reshape(columns.shape)
    replace(graph, *value.holder, value.stored(torch.from_numpy(rotated)))
    rows = output.read().double().numpy()
    rotated = np.einsum("ji,hjo->hio", H, rows.reshape(-1, len(H), rows.shape[1])).reshape(rows.shape)
    replace(graph, *output.holder, output.stored(torch.from_numpy(rotated)))


def orthogonal(width: int, seed: int) -> Matrix:
    """A Hadamard matrix with random signs, [width, width]; a cosine transform for the odd factor of the width."""
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], width)
    matrix, power = np.ones((1, 1)), width & -width
    while len(matrix) < power:
        matrix = np.kron(matrix, np.array([[1, 1], [1, -1]]) / np.sqrt(2))
    rotated: Matrix = signs[:, None] * np.kron(matrix, _cosines(width // power))
    return rotated


def _cosines(width: int) -> Matrix:
    """The orthonormal cosine transform of type II."""
    row, column = np.arange(width)[:, None], np.arange(width)[None, :]
    cosines: Matrix = np.sqrt(2 / width) * np.cos(np.pi * row * (column + 0.5) / width)
    cosines[0] /= np.sqrt(2)
    return cosines


def _is_number(value: ir.Value | None) -> bool:
    array = constant(value)
    return array is not None and array.size == 1


def _refused(value: ir.Value, why: str) -> RequestError:
    return RequestError(f"quantize.rotations: '{value.name}' {why}; leave rotations out")
