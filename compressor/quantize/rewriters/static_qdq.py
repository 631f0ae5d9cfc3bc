"""Static quantization: Quantize/Dequantize pairs around operators, as ONNX Runtime and TensorRT read them.

    y = Conv(x, W, b)     ->     y = Conv(DQ(Q(x)), DQ(W int8), b)        W: a scale for each output channel

A Relu or Clip stays with the operator before it; Reshape, MaxPool and their like hand a scale on. ONNX Runtime
computes  DQ -> operator -> Q  in integers, TensorRT fuses the pairs into its kernels. Biases stay float: TensorRT
wants them so, and ONNX Runtime quantizes them itself when it loads the graph. Graph outputs stay float.

Sources: ONNX Runtime, "Quantize ONNX models"; TensorRT 10, "Working with quantized types", explicit quantization.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from compressor.errors import RequestError
from compressor.graph import value_types
from compressor.graph.decoder import Feeds
from compressor.graph.session import open_session
from compressor.progress import Track
from compressor.quantize.rewriters import pairs
from compressor.quantize.rewriters.pairs import Form, Pairs
from compressor.quantize.rewriters.ranges import Range, observe
from compressor.quantize.rewriters.rewritten import Rewritten, label
from compressor.recipe.methods import StaticQdq

PRODUCTS = ("Conv", "Gemm", "MatMul")
SWEEPS = ("Add", "Mul", "AveragePool", "GlobalAveragePool", "Concat")
POOLS = ("AveragePool", "GlobalAveragePool")
# Their output's values are the input's, so the scale is too.
CARRIERS = frozenset({"MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Pad"})
ACTIVATIONS = frozenset({"Relu", "Clip"})
# TensorRT fuses sums into the products before them by itself; a pair between the two would cut that.
GAINED = {"cpu": (*PRODUCTS, *SWEEPS), "generic": (*PRODUCTS, *SWEEPS), "tensorrt": (*PRODUCTS, *POOLS)}
# ONNX Runtime computes these in integers only where their output is quantized as well.
CLOSED = frozenset({"Conv", *SWEEPS})
CLOSING_TARGETS = ("cpu", "generic")
OLDEST_OPSET, OLDEST_OPSET_WITH_AXIS, OLDEST_OPSET_WITH_FP8 = 10, 13, 19


@dataclass(frozen=True)
class Plan:
    """Nodes to quantize, and every value that gets a pair with the value whose range it has."""

    nodes: tuple[ir.Node, ...] = field(repr=False)
    ranged_by: dict[ir.Value, ir.Value] = field(repr=False)
    left_alone: dict[str, str] = field(repr=False)


def quantize(
    model: ir.Model,
    options: StaticQdq,
    target: str,
    exclude: Sequence[str],
    batches: Sequence[Feeds],
    track: Track,
) -> Rewritten:
    """Ranges from the data, pairs into the graph. Raises: RequestError when nothing in the graph can be quantized."""
    fallbacks = _check_opset(model, options)
    value_types.infer(model)
    chosen = plan(model, options, target, exclude)
    if not chosen.nodes:
        why = [f"{name}: {reason}" for name, reason in chosen.left_alone.items()]
        why = why or [f"none of {', '.join(_operators(options, target))}"]
        more = f", and {len(why) - 1} more" if len(why) > 1 else ""
        raise RequestError(f"no operator to quantize; {why[0]}{more}")
    names = sorted({str(value.name) for value in chosen.ranged_by.values()})
    ranges = observe(model, names, batches, options.ranges, options.percentile)
    form = Form.of(options, target, model.opset_imports[""])

    def quantized(one: ir.Model, float_nodes: Collection[str] = ()) -> tuple[list[dict[str, Any]], dict[str, str]]:
        planned = plan(one, options, target, exclude, float_nodes)
        return insert(one, planned, form, ranges), planned.left_alone

    products = [label(node) for node in chosen.nodes if node.op_type in PRODUCTS]
    alone = _each_alone(model, products, quantized, batches[0], track) if options.keep_sensitive else {}
    kept = sorted(alone, key=lambda name: -alone[name])[: options.keep_sensitive]
    rows, left_alone = quantized(model, kept)
    rows = [row | {"error_alone": alone.get(row["layer"])} for row in rows]
    left_alone |= {name: f"sensitive: alone it costs {alone[name]:.3g} of the outputs' energy" for name in kept}
    return Rewritten(model, rows, left_alone, fallbacks)


def plan(
    model: ir.Model, options: StaticQdq, target: str, exclude: Sequence[str], float_nodes: Collection[str] = ()
) -> Plan:
    """Choose nodes in the order of the graph, then the values between them."""
    left: dict[ir.Node, str] = {}
    nodes: list[ir.Node] = []
    integer: set[ir.Value] = set()  # values that come out of integer kernels
    for node in model.graph:
        if _carries(node) and node.inputs[0] in integer:
            integer.add(node.outputs[0])
        if node.domain or node.op_type not in _operators(options, target):
            continue
        if label(node) in float_nodes:
            continue
        if reason := _refusal(node, exclude, integer, attention=options.attention):
            left |= {node: reason} if node.op_type in PRODUCTS else {}
        else:
            nodes.append(node)
            integer |= {_end(node)} if node.op_type in CLOSED else set()
    taken = {label(node) for node in nodes}  # by a product that is quantized, of a weight that several read
    named = {label(node) if label(node) not in taken else str(node.outputs[0].name): why for node, why in left.items()}
    return Plan(tuple(nodes), _values(model, nodes, closing=target in CLOSING_TARGETS), named)


def insert(model: ir.Model, chosen: Plan, form: Form, ranges: dict[str, Range]) -> list[dict[str, Any]]:
    """Put the pairs of a plan into the graph, in place. Returns the layer table."""
    into, made = Pairs(model, form), {_end(node) for node in chosen.nodes}
    chosen_nodes = set(chosen.nodes)
    rows = [_row(label(node), node, into.quantize_weights(node)) for node in chosen.nodes]
    for value, source in chosen.ranged_by.items():
        producer = value.producer()
        carried = producer is not None and _carries(producer) and producer.inputs[0] in chosen.ranged_by
        everyone = value in made or carried
        readers = [
            (use.node, use.idx)
            for use in value.uses()
            if everyone or use.node in chosen_nodes or (_carries(use.node) and use.node.outputs[0] in chosen.ranged_by)
        ]
        into.add(value, ranges[str(source.name)], readers)
    into.drop_unused()
    return rows


def _check_opset(model: ir.Model, options: StaticQdq) -> list[str]:
    opset = model.opset_imports.get("", 0)
    needed = OLDEST_OPSET_WITH_FP8 if options.dtype == "fp8" else OLDEST_OPSET
    if opset < needed:
        raise RequestError(f"opset {opset} has no QuantizeLinear for {options.dtype or 'int8'}; {needed} is the first")
    coarse = options.per_channel and opset < OLDEST_OPSET_WITH_AXIS
    return [f"opset {opset}: weights have a scale each instead of one per channel; 13 is the first"] if coarse else []


def _operators(options: StaticQdq, target: str) -> tuple[str, ...]:
    return GAINED[target] if options.operators is None else options.operators


def _refusal(node: ir.Node, exclude: Sequence[str], integer: Collection[ir.Value], *, attention: bool) -> str:
    """Why a node stays float; empty when it does not."""
    if named := next((one for one in exclude if one in label(node) or one in (node.name or "")), None):
        return f"excluded by '{named}'"
    data = pairs.data_inputs(node)
    constants = [pairs.constant(value) is not None for value in data]
    if not data or all(constants):
        return "reads constants alone"
    if other := next((value for value in data if not _is_float(value)), None):
        kind = "of unknown type" if other.dtype is None else other.dtype.name.lower()
        return f"reads '{other.name}', which is {kind}; pairs are put around float32 alone"
    if node.op_type in PRODUCTS:
        return "" if any(constants) or (attention and node.op_type == "MatMul") else "a product of two activations"
    return "" if not any(constants) and any(value in integer for value in data) else "reads nothing quantized"


def _values(model: ir.Model, nodes: Sequence[ir.Node], *, closing: bool) -> dict[ir.Value, ir.Value]:
    """Values that get a pair, in the order of the graph, each with the value whose range it has."""
    wanted = {value for node in nodes for value in pairs.data_inputs(node) if pairs.constant(value) is None}
    if closing:
        wanted |= {_end(node) for node in nodes if node.op_type in CLOSED and not _end(node).is_graph_output()}
    ordered = list(model.graph)
    for node in reversed(ordered):
        before = node.inputs[0] if node.outputs[0] in wanted and _carries(node) else None
        if before is not None:
            wanted.add(before)
    found: dict[ir.Value, ir.Value] = {value: value for value in model.graph.inputs if value in wanted}
    for node in ordered:
        for value in node.outputs:
            if value in wanted:
                source = node.inputs[0] if _carries(node) else None
                found[value] = value if source is None else found.get(source, value)
    return found


def _end(node: ir.Node) -> ir.Value:
    """What leaves a node and the Relu or Clip that is fused to it."""
    output = node.outputs[0]
    uses = list(output.uses())
    alone = len(uses) == 1 and not output.is_graph_output() and node.op_type != "Concat"
    return uses[0].node.outputs[0] if alone and uses[0].node.op_type in ACTIVATIONS and uses[0].idx == 0 else output


def _carries(node: ir.Node) -> bool:
    if node.domain or node.op_type not in CARRIERS or not _is_float(node.outputs[0]):
        return False
    return node.op_type != "Pad" or _pads_with_zero(node)


def _pads_with_zero(node: ir.Node) -> bool:
    """0 is on every grid; another constant may lie outside the range."""
    value = node.inputs[2] if len(node.inputs) > 2 else None
    filled = pairs.constant(value) if value is not None else np.zeros(())
    return "value" not in node.attributes and filled is not None and not filled.any()


def _is_float(value: ir.Value | None) -> bool:
    return value is not None and value.dtype == ir.DataType.FLOAT


def _row(name: str, node: ir.Node, weight_error: float | None) -> dict[str, Any]:
    return {
        "layer": name,
        "operator": node.op_type,
        "weight_error": weight_error,
        "fallback": "",
        "flags": [] if weight_error is None or np.isfinite(weight_error) else ["not finite"],
    }


def _each_alone(
    model: ir.Model,
    labels: Sequence[str],
    quantized: Callable[[ir.Model, Collection[str]], object],
    feeds: Feeds,
    track: Track,
) -> dict[str, float]:
    """Share of the outputs' energy that is lost when one product alone is quantized, by its label."""
    expected, lost = _outputs(model, feeds), {}
    for one in track(labels, "sensitivity"):
        twin = model.clone()
        quantized(twin, set(labels) - {one})
        found = _outputs(twin, feeds)
        error = sum(float(np.square(a - b).sum()) for a, b in zip(found, expected, strict=True))
        lost[one] = error / max(sum(float(np.square(b).sum()) for b in expected), np.finfo(np.float64).tiny)
    return lost


def _outputs(model: ir.Model, feeds: Feeds) -> list[NDArray[np.float64]]:
    found = open_session(model, "exact").run(None, dict(feeds))
    return [np.asarray(array, np.float64) for array in found if array.dtype.kind == "f"]
