"""The operator set that packed weights need, for a graph of an older one.

    opset 17, Conv, 4 bits in groups of 32  ->  opset 21, whose DequantizeLinear has blocks and 4-bit codes

Raised where the conversion answers as the file did; refused where it does not.
"""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from compressor import catalog
from compressor.errors import RequestError
from compressor.recipe.methods import OnGrid
from compressor.recipe.recipe import Recipe

FIRST_OPSET_WITH_BLOCKS, FIRST_OPSET_WITH_AXIS = 21, 13  # of DequantizeLinear; 4-bit codes came with blocks


def with_room_for_codes(model: ir.Model, path: Path, recipe: Recipe) -> ir.Model:
    """The graph, or the same at the opset that its DequantizeLinear nodes will need.

    Raises: RequestError where it cannot be raised.
    """
    opset, needed = model.opset_imports.get("", 1), _needed(model, recipe)
    if opset >= needed:
        return model
    from compressor.export import onnx_file

    raised, reason = onnx_file.raised(path, needed)
    if reason:
        raise RequestError(
            f"opset {opset} has no DequantizeLinear for these weights, {needed} is the first that has, and this graph "
            f"cannot be raised to it: {reason}"
        )
    return raised


def _needed(model: ir.Model, recipe: Recipe) -> int:
    """0 where no weight will come from a DequantizeLinear."""
    method = recipe.quantize.method
    if not isinstance(method, OnGrid) or catalog.FORMATS[recipe.format].checkpoint:
        return 0
    if recipe.format != "qdq" and not any(node.op_type == "Conv" for node in model.graph):
        return 0
    alike = method.group_size in (-1, "tensor") and catalog.FORMATS["qdq"].cells[method.bits] == 8
    return FIRST_OPSET_WITH_AXIS if alike and not recipe.quantize.budget else FIRST_OPSET_WITH_BLOCKS
