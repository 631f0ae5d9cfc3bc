"""A Pad before a convolution or a pool is part of it.

p = Pad(x, [0,0,1,1, 0,0,1,1]); y = Conv(p, W, pads = [0,0,0,0])     ->     y = Conv(x, W, pads = [1,1,1,1])
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import onnx_ir as ir

from passes.editing.constants import constant
from passes.local import LocalPass, Scope, producer_of, require
from passes.shapes.sizes import known

FIRST_WITH_INPUTS = 11  # before, Pad keeps pads and value in attributes
FIRST_COUNTING_PADS = 7


class PadFusion(LocalPass):
    """Add the amounts of a Pad to the `pads` of the Conv, AveragePool or MaxPool that reads it.

    The Pad must be constant, of spatial axes alone, and not crop. It must fill in what the reader would: 0 for a Conv,
    0 for an AveragePool that counts its padding, the lowest for a MaxPool (0 there is a known bug of others).
    Left alone: auto_pad, a pool that rounds up (its last window may lie in the padding), a pad as wide as its window.
    """

    operators: ClassVar[frozenset[str]] = frozenset({"AveragePool", "Conv", "MaxPool"})

    def rewrite(self, node: ir.Node, scope: Scope) -> bool:
        pad = producer_of(node.inputs[0], "Pad")
        if pad is None:
            return False
        amounts = _amounts(pad, scope)
        require(not any(amounts[0] + amounts[1]), "it pads the batch or the channels")
        begins, ends = [list(side) for side in zip(*amounts[2:], strict=True)]
        require(min(begins + ends) >= 0, "a negative amount crops")
        self._require_same_filling(pad, node, scope)
        _require_room_in(node, begins + ends)
        own = list(node.attributes["pads"].as_ints()) if "pads" in node.attributes else [0] * 2 * len(begins)
        if node.op_type == "AveragePool":
            counted = node.attributes.get_int("count_include_pad", 0) == 1
            require(scope.opset >= FIRST_COUNTING_PADS, "before opset 7 an AveragePool counts no padding")
            require(counted or not any(own), "it pads by itself, and does not count that")
            node.attributes["count_include_pad"] = ir.AttrInt64("count_include_pad", 1)
        total = [mine + added for mine, added in zip(own, begins + ends, strict=True)]
        node.attributes["pads"] = ir.AttrInt64s("pads", total)
        node.replace_input_with(0, pad.inputs[0])
        return True

    def _require_same_filling(self, pad: ir.Node, node: ir.Node, scope: Scope) -> None:
        mode = pad.attributes.get_string("mode", "constant")
        require(mode == "constant", f"the Pad is of mode {mode}")
        value = _value(pad, scope)
        wanted = -np.inf if node.op_type == "MaxPool" else 0.0
        require(value == wanted, f"it fills in {value}, and a {node.op_type} pads with {wanted}")


def _amounts(pad: ir.Node, scope: Scope) -> list[tuple[int, int]]:
    """Begin and end of each axis. Raises Refused where a run decides."""
    if scope.opset < FIRST_WITH_INPUTS:
        numbers: list[int] | None = list(pad.attributes["pads"].as_ints()) if "pads" in pad.attributes else None
        axes = None
    else:
        numbers = known(scope.symbols.content(pad.inputs[1]))
        given = pad.inputs[3] if len(pad.inputs) > 3 else None
        axes = known(scope.symbols.content(given))
        require(given is None or axes is not None, "its axes are decided at run time")
    require(numbers is not None, "its amounts are decided at run time")
    assert numbers is not None  # held by the line above
    half = len(numbers) // 2
    pairs = list(zip(numbers[:half], numbers[half:], strict=True))
    if axes is None:
        return pairs
    shape = scope.symbols.shape(pad.inputs[0])
    require(shape is not None, "the rank of its input is not known")
    rank = len(shape or ())
    by_axis = {axis % rank: pair for axis, pair in zip(axes, pairs, strict=True)}
    return [by_axis.get(axis, (0, 0)) for axis in range(rank)]


def _value(pad: ir.Node, scope: Scope) -> float:
    if scope.opset < FIRST_WITH_INPUTS:
        return float(pad.attributes.get_float("value", 0.0))
    if len(pad.inputs) < 3 or pad.inputs[2] is None:
        return 0.0
    tensor = constant(pad.inputs[2])
    require(tensor is not None and tensor.size == 1, "its value is decided at run time")
    assert tensor is not None  # held by the line above
    return float(tensor.numpy().reshape(-1)[0])


def _require_room_in(node: ir.Node, added: list[int]) -> None:
    require(node.attributes.get_string("auto_pad", "NOTSET") == "NOTSET", "auto_pad depends on the size of the input")
    if node.op_type == "Conv":
        return
    require(node.attributes.get_int("ceil_mode", 0) == 0, "ceil_mode may put a whole window into the padding")
    require(len(node.outputs) == 1, "the indices count from the padded corner")
    window = node.attributes["kernel_shape"].as_ints()
    own = list(node.attributes["pads"].as_ints()) if "pads" in node.attributes else [0] * len(added)
    widths = [mine + more for mine, more in zip(own, added, strict=True)]
    fits = all(width < size for width, size in zip(widths, [*window, *window], strict=True))
    require(fits, f"pads {widths} are as wide as the window {list(window)}")
