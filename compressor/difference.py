"""Two graphs side by side: interface, versions, operators, weights; what is equal is not mentioned."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from compressor.artifact import Artifact
from compressor.errors import RequestError, in_a_line
from compressor.graph.session import load_model
from compressor.inspection import interface, operators, weights


def compare(before: Artifact, after: Artifact) -> dict[str, Any]:
    """Facts for a reader; empty where the two graphs are built of the same parts."""
    a, b = load_model(before.model), load_model(after.model)
    facts = {
        "opsets": _changes(dict(a.opset_imports), dict(b.opset_imports)),
        "ir version": _changes({"": a.ir_version}, {"": b.ir_version}),
        "inputs": _changes(interface(a.graph.inputs), interface(b.graph.inputs)),
        "outputs": _changes(interface(a.graph.outputs), interface(b.graph.outputs)),
        "operators": _changes(operators(a), operators(b)),
        "weights": _weight_changes(weights(a), weights(b)),
    }
    return {name: changes for name, changes in facts.items() if changes}


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, str]:
    """`12 -> 8` for what differs; `none` stands for what is not there."""
    names = [*before, *(name for name in after if name not in before)]
    pairs = {name: (before.get(name, "none"), after.get(name, "none")) for name in names}
    return {name or "ai.onnx": f"{was} -> {now}" for name, (was, now) in pairs.items() if was != now}


Weights = Mapping[str, ir.TensorProtocol]


def _weight_changes(before: Weights, after: Weights) -> dict[str, Any]:
    """Counts and bytes of what came and went, and by how much the weights of one name and shape differ."""
    gone, new = [before[one] for one in before if one not in after], [after[one] for one in after if one not in before]
    facts: dict[str, Any] = {name: _total(found) for name, found in (("gone", gone), ("new", new)) if found}
    kinds = Counter[str]()
    for name in (one for one in before if one in after):
        kinds[_difference(before[name], after[name])] += 1
    changed = {kind: count for kind, count in kinds.items() if kind != "equal"}
    return facts | ({"of the same name": changed} if changed else {})


def _total(tensors: list[ir.TensorProtocol]) -> str:
    return f"{len(tensors)}, {sum(tensor.nbytes for tensor in tensors)} bytes"


def _difference(before: ir.TensorProtocol, after: ir.TensorProtocol) -> str:
    if (before.dtype, tuple(before.shape)) != (after.dtype, tuple(after.shape)):
        return f"{before.dtype}{list(before.shape.numpy())} -> {after.dtype}{list(after.shape.numpy())}"
    a, b = _values(before), _values(after)
    return "equal" if a.tobytes() == b.tobytes() else f"other values, {_distance(a, b)}"


def _values(tensor: ir.TensorProtocol) -> np.ndarray[Any, Any]:
    try:
        return np.asarray(tensor.numpy())
    except (ValueError, TypeError) as error:
        raise RequestError(f"the weight '{tensor.name}' cannot be read ({in_a_line(error)})") from None


def _distance(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> str:
    """The order of magnitude: weights of one kind of change fall into one line."""
    if a.dtype.kind not in "fV":
        return "whole numbers"
    x, y = a.astype(np.float64), b.astype(np.float64)
    relative = float(np.abs(x - y).max() / (np.abs(x).max() or 1.0))
    return f"up to {10 ** np.ceil(np.log10(relative)):.0e} of the largest" if relative else "signs of zeros"
