"""ONNX operators on numpy arrays: `EVALUATE[op](*inputs, **attributes)` is the operator's result.

    EVALUATE["Unsqueeze"](x, axes=[0])              opset 1-12: axes is an attribute
    EVALUATE["Unsqueeze"](x, np.array([0]))         opset 13+: axes is an input

A Python signature takes both, so one row serves every opset. An attribute the signature does not know (`broadcast`
before opset 7, whatever opset 30 brings) raises TypeError: what is not understood is not computed.
The operators are those of https://onnx.ai/onnx/operators.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from passes.computing import indexing

Array = npt.NDArray[Any]
Ints = Iterable[Any]  # an attribute's tuple or an input's array

# Results of more than 1 Mi entries that are larger than their inputs are for the runtime: [S, 1] < [1, S] would take
# 17 GB here at S = 131072 before anybody could say that it is too large. Expand and ConstantOfShape give views.
MANY_ENTRIES = 1 << 20


def evaluate(op_type: str, inputs: Sequence[Array | None], attributes: Mapping[str, Any]) -> Array:
    """The one output of an operator; TypeError, ValueError, IndexError or ArithmeticError where it cannot be told."""
    compute = EVALUATE[op_type]
    if isinstance(compute, np.ufunc) or op_type in BROADCASTING:
        arrays = [array for array in inputs if array is not None]
        _limit(np.broadcast(*arrays).size, sum(array.size for array in arrays))
    with np.errstate(all="ignore"):  # NaN and infinity are the caller's to judge
        return np.asarray(compute(*inputs, **attributes))


def _limit(entries: int, entries_read: int) -> None:
    if entries > max(MANY_ENTRIES, entries_read):
        raise OverflowError(f"{entries} entries from {entries_read} are left to the runtime")


def _divide(a: Array, b: Array) -> Any:
    """Integers divide as in C, toward zero; numpy rounds down."""
    if a.dtype.kind not in "iu":
        return np.divide(a, b)
    if not np.all(b):
        raise ZeroDivisionError("integer division by zero")
    quotient, remainder = np.divmod(a, b)
    return quotient + ((remainder != 0) & ((a < 0) != (b < 0))).astype(a.dtype)


def _modulo(a: Array, b: Array, fmod: int = 0) -> Any:
    if a.dtype.kind in "iu" and not np.all(b):
        raise ZeroDivisionError("integer modulo by zero")
    return np.fmod(a, b) if fmod else np.mod(a, b)


def _power(base: Array, exponent: Array) -> Any:
    return np.power(base, exponent).astype(base.dtype)


def _cast(data: Array, to: int, saturate: int = 1) -> Any:
    """Numbers and bool only: the small float types saturate by rules of their own, and strings are no numbers."""
    del saturate  # speaks of float8 alone
    target = ir.DataType(to).numpy()
    if data.dtype.kind not in "biuf" or target.kind not in "biuf":
        raise TypeError(f"a Cast from {data.dtype} to {target} is left to the runtime")
    result = data.astype(target)
    if data.dtype.kind == "f" and target.kind in "iu" and not np.array_equal(np.trunc(data), result):
        raise OverflowError(f"a value does not fit {target}, and what it becomes depends on the machine")
    return result


def _clip(data: Array, min: Array | float | None = None, max: Array | float | None = None) -> Any:
    low, high = (None if bound is None else np.asarray(bound, data.dtype) for bound in (min, max))
    return np.clip(data, low, high)


def _gather(data: Array, indices: Array, axis: int = 0) -> Any:
    return np.take(data, indices, axis)


def _slice(data: Array, starts: Ints, ends: Ints, axes: Ints | None = None, steps: Ints | None = None) -> Any:
    bounds = list(zip(starts, ends, strict=True))
    axes = range(len(bounds)) if axes is None else axes
    steps = [1] * len(bounds) if steps is None else steps
    index = [slice(None)] * data.ndim
    for axis, (start, end), step in zip(axes, bounds, steps, strict=True):
        index[axis] = indexing.window(data.shape[axis], int(start), int(end), int(step))
    return data[tuple(index)]


def _concat(*data: Array, axis: int) -> Any:
    return np.concatenate(data, axis)


def _reshape(data: Array, shape: Ints, allowzero: int = 0) -> Any:
    """A 0 copies the dimension of the same place, unless allowzero says that it means 0."""
    return data.reshape([data.shape[i] if size == 0 and not allowzero else int(size) for i, size in enumerate(shape)])


def _flatten(data: Array, axis: int = 1) -> Any:
    return data.reshape(math.prod(data.shape[:axis]), math.prod(data.shape[axis:]))


def _transpose(data: Array, perm: Ints | None = None) -> Any:
    return np.transpose(data, None if perm is None else list(perm))


def _squeeze(data: Array, axes: Ints | None = None) -> Any:
    return np.squeeze(data, None if axes is None else tuple(int(axis) for axis in axes))


def _unsqueeze(data: Array, axes: Ints) -> Any:
    return np.expand_dims(data, tuple(int(axis) for axis in axes))


def _expand(data: Array, shape: Ints) -> Any:
    return np.broadcast_to(data, np.broadcast_shapes(data.shape, tuple(int(size) for size in shape)))


def _constant_of_shape(shape: Ints, value: ir.TensorProtocol | None = None) -> Any:
    filler = np.zeros((), np.float32) if value is None else value.numpy().reshape(())
    return np.broadcast_to(filler, tuple(int(size) for size in shape))


def _range(start: Array, limit: Array, delta: Array) -> Any:
    """Integers: with floats the runtime adds step after step, and its rounding is its own."""
    if start.dtype.kind not in "iu":
        raise TypeError("a Range of floats is left to the runtime")
    first, end, step = int(start), int(limit), int(delta)
    _limit(abs(end - first) // abs(step), entries_read=3)
    return np.arange(first, end, step, dtype=start.dtype)


def _reduction(reduce: Callable[..., Any]) -> Callable[..., Any]:
    """All axes where none are named; `noop_with_empty_axes` (opset 13+) turns that into none."""

    def compute(data: Array, axes: Ints | None = None, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Any:
        over = tuple(int(axis) for axis in (() if axes is None else axes))
        if not over and noop_with_empty_axes:
            return data
        result = np.asarray(reduce(data, axis=over or None, keepdims=bool(keepdims))).astype(data.dtype)
        _require_fit(result, reduce(data.astype(np.float64), axis=over or None, keepdims=bool(keepdims)))
        return result

    return compute


def _require_fit(result: Array, about: Any) -> None:
    """Whole numbers that outgrow their type: some of the runtime's sums stop at its end, and others wrap around."""
    if result.dtype.kind in "iu" and not np.allclose(about, result, rtol=2**-40):
        raise OverflowError(f"a total does not fit {result.dtype}")


def _shape(data: Array, start: int = 0, end: int | None = None) -> Any:
    return np.array(data.shape[start:end], np.int64)


# Operators that widen their inputs to a common shape, as every np.ufunc in the table does.
BROADCASTING = frozenset({"Div", "Max", "Min", "Mod", "Pow", "Where"})

# Operators that read the dimensions of their input and none of its values, so that it need not be constant.
SHAPE_ONLY = frozenset({"Shape", "Size"})

# Missing on purpose: QuantizeLinear and DequantizeLinear, which are how a quantized weight is stored; random operators
# and Dropout; control flow; Identity, whose constant is to be shared and not copied.
EVALUATE: dict[str, Callable[..., Any]] = {
    "Abs": np.abs,
    "Add": np.add,
    "And": np.logical_and,
    "Cast": _cast,
    "Ceil": np.ceil,
    "Clip": _clip,
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "Cos": np.cos,
    "CumSum": indexing.cumulative_sum,
    "Div": _divide,
    "Equal": np.equal,
    "Exp": np.exp,
    "Expand": _expand,
    "Flatten": _flatten,
    "Floor": np.floor,
    "Gather": _gather,
    "GatherElements": indexing.gather_elements,
    "GatherND": indexing.gather_nd,
    "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
    "Less": np.less,
    "LessOrEqual": np.less_equal,
    "Log": np.log,
    "Max": lambda *data: functools.reduce(np.maximum, data),
    "Min": lambda *data: functools.reduce(np.minimum, data),
    "Mod": _modulo,
    "Mul": np.multiply,
    "Neg": np.negative,
    "NonZero": indexing.nonzero,
    "Not": np.logical_not,
    "OneHot": indexing.one_hot,
    "Or": np.logical_or,
    "Pow": _power,
    "Range": _range,
    "Reciprocal": np.reciprocal,
    "ReduceMax": _reduction(np.max),
    "ReduceMin": _reduction(np.min),
    "ReduceProd": _reduction(np.prod),
    "ReduceSum": _reduction(np.sum),
    "Reshape": _reshape,
    "Round": np.rint,
    "ScatterND": indexing.scatter_nd,
    "Shape": _shape,
    "Sign": np.sign,
    "Sin": np.sin,
    "Size": lambda data: np.array(data.size, np.int64),
    "Slice": _slice,
    "Sqrt": np.sqrt,
    "Squeeze": _squeeze,
    "Sub": np.subtract,
    "Tile": indexing.tile,
    "Transpose": _transpose,
    "Trilu": indexing.triangle,
    "Unsqueeze": _unsqueeze,
    "Where": np.where,
    "Xor": np.logical_xor,
}
