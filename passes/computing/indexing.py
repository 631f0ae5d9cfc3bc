"""Operators that place, select and count entries, on numpy arrays: rows of the table in evaluation.py.

All of them are exact, so that the runtime's result is this one to the last bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def window(size: int, start: int, end: int, step: int) -> slice:
    """A Slice of an axis in Python's terms. On the way back a start before the first entry is the first entry, where
    Python finds none; ends that are negative or too far mean the same in both."""
    return slice(max(start, -size), end, step)


def cumulative_sum(data: Array, axis: Array, exclusive: int = 0, reverse: int = 0) -> Any:
    """Whole numbers: of floats the order of a sum is the runtime's own."""
    if data.dtype.kind not in "iu":
        raise TypeError("a CumSum of floats is left to the runtime")
    along = int(axis.reshape(()))
    flipped = np.flip(data, along) if reverse else data
    total = np.cumsum(flipped, along, dtype=data.dtype)
    total = total - flipped if exclusive else total
    return np.flip(total, along) if reverse else total


def gather_elements(data: Array, indices: Array, axis: int = 0) -> Any:
    along = axis % data.ndim
    if tuple(np.delete(indices.shape, along)) != tuple(np.delete(data.shape, along)):
        raise ValueError("a GatherElements of a part is left to the runtime")
    return np.take_along_axis(data, indices, along)


def gather_nd(data: Array, indices: Array, batch_dims: int = 0) -> Any:
    if batch_dims:
        raise TypeError("a GatherND with batches is left to the runtime")
    return data[tuple(np.moveaxis(indices, -1, 0))]


def scatter_nd(data: Array, indices: Array, updates: Array) -> Any:
    """In the order of the updates; `reduction` (opset 16) is an attribute that nobody here knows."""
    result = data.copy()
    result[tuple(np.moveaxis(indices, -1, 0))] = updates
    return result


def nonzero(data: Array) -> Any:
    return np.array(np.nonzero(data), np.int64)


def one_hot(indices: Array, depth: Array, values: Array, axis: int = -1) -> Any:
    """Indices count from the end where they are negative; outside of the depth they light nothing."""
    size = int(depth.reshape(()))
    if indices.dtype.kind not in "iu":
        raise TypeError("a OneHot of floats is left to the runtime")
    inside = (indices >= -size) & (indices < size)
    lit = inside[..., None] & (indices[..., None] % size == np.arange(size))
    return np.where(np.moveaxis(lit, -1, axis), values[1], values[0])


def tile(data: Array, repeats: Array) -> Any:
    return np.tile(data, tuple(int(one) for one in repeats))


def triangle(data: Array, k: Array | None = None, upper: int = 1) -> Any:
    offset = 0 if k is None else int(k.reshape(()))
    return np.triu(data, offset) if upper else np.tril(data, offset)
