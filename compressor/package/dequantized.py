"""A QTensor as the constants of a DequantizeLinear, for products and for convolutions.

    codes        int8 or int4, zero in the middle; uint8 or uint4 where a zero point lies elsewhere
    scales       float32, zero points like the codes: blocked along an axis, one for each output, or one for all

3- and 2-bit codes lie in 4-bit cells, the smallest that opset 21 has; its last block may be shorter.
Source: ONNX operator set 21, DequantizeLinear.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from compressor import catalog
from compressor.quantize.qtensor import PER_CHANNEL, QTensor

CELL_BITS = catalog.FORMATS["qdq"].cells
SIGNED: dict[int, Any] = {8: np.int8, 4: ml_dtypes.int4}
UNSIGNED: dict[int, Any] = {8: np.uint8, 4: ml_dtypes.uint4}

Array = NDArray[Any]


def constants(tensor: QTensor, *, outputs_first: bool = False) -> dict[str, Array]:
    """The inputs in their order, codes [in, out] or, `outputs_first`, [out, in]; no zero points in the middle."""
    cell, middle = CELL_BITS[tensor.bits], 2 ** (tensor.bits - 1)
    codes, scale, zero = (_laid_out(part, outputs_first) for part in (tensor.q, tensor.scale, tensor.zero))
    arrays: dict[str, Array] = {"scales": _shared(scale, tensor.group_size)}
    if (zero == middle).all():
        return {"codes": (codes.astype(np.int16) - middle).astype(SIGNED[cell]), **arrays}
    zeros = _shared(zero, tensor.group_size).astype(UNSIGNED[cell])
    return {"codes": codes.astype(UNSIGNED[cell]), **arrays, "zero_points": zeros}


def attributes(tensor: QTensor, *, outputs_first: bool = False) -> dict[str, int]:
    """How the scales are spread over the codes."""
    if tensor.group_size > 0:
        return {"axis": int(outputs_first), "block_size": tensor.group_size}
    return {"axis": int(not outputs_first)} if tensor.group_size == PER_CHANNEL else {}


def _laid_out(part: Any, outputs_first: bool) -> Array:
    array: Array = part.cpu().numpy()
    return np.ascontiguousarray(array.T) if outputs_first else array


def _shared(values: Array, group_size: int) -> Array:
    """The scales of groups in the shape that the operator wants: a vector per channel, one number per tensor."""
    if group_size > 0:
        return values
    shared: Array = values.reshape(-1) if group_size == PER_CHANNEL else values.reshape(-1)[0].reshape(())
    return shared
