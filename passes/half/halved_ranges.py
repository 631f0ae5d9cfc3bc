"""What of float32 a narrower type can hold: constants that fit, and values that come from one that does not."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from passes.editing.constants import constant

Array = npt.NDArray[Any]

# However large what they read, what they give is small.
BOUNDED = frozenset({"Erf", "HardSigmoid", "Sigmoid", "Softmax", "Softsign", "Tanh"})


def is_float(value: ir.Value | None) -> bool:
    """A tensor of float32."""
    return value is not None and isinstance(value.type, ir.TensorType) and value.dtype == ir.DataType.FLOAT


def fits(value: ir.Value | None, dtype: ir.DataType) -> bool:
    """No number of a constant overflows, and not all that are there vanish; True where it is none."""
    tensor = constant(value) if is_float(value) else None
    if tensor is None:
        return True
    numbers = tensor.numpy()
    return not _overflows(numbers, dtype) and bool(numbers.any()) == bool(_rounded(numbers, dtype).any())


def _rounded(numbers: Array, dtype: ir.DataType) -> Array:
    with np.errstate(over="ignore", under="ignore"):
        return numbers.astype(dtype.numpy())


def _overflows(numbers: Array, dtype: ir.DataType) -> bool:
    return not np.array_equal(np.isfinite(numbers), np.isfinite(_rounded(numbers, dtype)))


def large(graph: ir.Graph, half: set[ir.Node], dtype: ir.DataType) -> set[ir.Value]:
    """Constants that overflow, and what nodes of float32 compute from them."""
    found = set[ir.Value]()
    for value in graph.initializers.values():
        tensor = constant(value) if is_float(value) else None
        if tensor is not None and _overflows(tensor.numpy(), dtype):
            found.add(value)
    for node in graph:
        if node not in half and node.op_type not in BOUNDED and any(value in found for value in node.inputs):
            found |= set(node.outputs)
    return found
