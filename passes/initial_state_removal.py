"""A recurrent layer that starts at zero needs not be told so.

   n = Shape(x)[1]; h = ConstantOfShape(Concat(2, n, 64), 0); y = LSTM(x, w, r, b, "", h, h)
-> y = LSTM(x, w, r, b)

Exporters write the zeros out for whatever batch there will be, with five nodes a layer.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import onnx_ir as ir

from passes.editing.constants import constant, release
from passes.local import LocalPass, Scope, producer_of

FIRST_STATE = 5  # its place among the inputs, behind that of the lengths
STATES = {"GRU": 1, "LSTM": 2, "RNN": 1}
# fmt: off
KEEPS_ZEROS = (
    "Cast", "Expand", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze",
)
# fmt: on


class InitialStateRemoval(LocalPass):
    """Leave out initial states of GRU, LSTM and RNN that are zero in every run; the standard starts at zero then."""

    operators: ClassVar[frozenset[str]] = frozenset(STATES)

    def rewrite(self, node: ir.Node, scope: Scope) -> bool:
        del scope
        places = range(FIRST_STATE, min(FIRST_STATE + STATES[node.op_type], len(node.inputs)))
        zeros = [place for place in places if node.inputs[place] is not None and is_zero(node.inputs[place])]
        for place in zeros:
            value = node.inputs[place]
            node.replace_input_with(place, None)
            if value is not None:
                release(value)
        while node.inputs and node.inputs[-1] is None:
            node.resize_inputs(len(node.inputs) - 1)
        return bool(zeros)


def is_zero(value: ir.Value | None) -> bool:
    """Every entry, in every run: a constant, what is filled with zeros, and what only moves, repeats or picks them."""
    tensor = constant(value)
    if tensor is not None:
        return tensor.dtype != ir.DataType.STRING and not np.any(tensor.numpy())
    if (filled := producer_of(value, "ConstantOfShape")) is not None:
        given = filled.attributes.get("value")
        return given is None or not np.any(given.as_tensor().numpy())
    if (joined := producer_of(value, "Concat")) is not None:
        return all(map(is_zero, joined.inputs))
    moved = producer_of(value, *KEEPS_ZEROS)
    return moved is not None and is_zero(moved.inputs[0])
