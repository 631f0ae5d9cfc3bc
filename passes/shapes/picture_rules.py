"""What shapes the operators on pictures make: windows that move over them, borders around them, other resolutions."""

from __future__ import annotations

import onnx_ir as ir

from passes.editing.constants import constant
from passes.shapes.size_rules import Facts, Partial, Rule
from passes.shapes.sizes import ONE, Size, Sizes, known


def _windowed(node: ir.Node, facts: Facts) -> Partial | None:
    """A pool keeps batch and channels, and along the others what a window that moves by 1 leaves."""
    shape = facts.shape(node.inputs[0])
    if shape is None or len(shape) < 3:
        return None
    window = list(node.attributes["kernel_shape"].as_ints()) if "kernel_shape" in node.attributes else []
    return [*shape[:2], *_along_window(node, shape[2:], window)]


def _convolved(node: ir.Node, facts: Facts) -> Partial | None:
    shape, weight = facts.shape(node.inputs[0]), facts.shape(node.inputs[1])
    if shape is None or weight is None or len(shape) < 3 or len(weight) != len(shape):
        return None
    window = known(weight[2:]) or []
    return [shape[0], weight[0], *_along_window(node, shape[2:], window)]


def _along_window(node: ir.Node, sizes: Sizes, window: list[int]) -> list[Size | None]:
    """size + padding - dilation (window - 1) where the steps are 1; a longer step leaves a rest that a run decides."""
    ones, none = [1] * len(sizes), [0] * 2 * len(sizes)
    given = {name: one.as_ints() for name in ("strides", "dilations", "pads") if (one := node.attributes.get(name))}
    steps, apart, pads = (list(given.get(*one)) for one in (("strides", ones), ("dilations", ones), ("pads", none)))
    if len(window) != len(sizes) or node.attributes.get_string("auto_pad", "NOTSET") != "NOTSET":
        return [None] * len(sizes)
    padded = [begin + end for begin, end in zip(pads, pads[len(sizes) :], strict=False)]
    columns = zip(sizes, window, steps, apart, padded, strict=True)
    return [
        size.plus(Size.of(more - dilation * (width - 1))) if step == 1 else None
        for size, width, step, dilation, more in columns
    ]


def _pooled(node: ir.Node, facts: Facts) -> Partial | None:
    shape = facts.shape(node.inputs[0])
    return None if shape is None else [*shape[:2], *(ONE for _ in shape[2:])]


def _batch_alone(node: ir.Node, facts: Facts) -> Partial | None:
    shape = facts.shape(node.inputs[0])
    return None if not shape else [shape[0], *(None for _ in shape[1:])]


def _padded(node: ir.Node, facts: Facts) -> Partial | None:
    shape = facts.shape(node.inputs[0])
    given = node.inputs[3] if len(node.inputs) > 3 else None
    axes = known(facts.content(given)) if given is not None else list(range(len(shape or ())))
    by_attribute = "pads" in node.attributes
    amounts = facts.content(node.inputs[1]) if len(node.inputs) > 1 else None
    pads = list(node.attributes["pads"].as_ints()) if by_attribute else known(amounts)
    if shape is None or axes is None or pads is None or len(pads) != 2 * len(axes):
        return None
    ends = zip(axes, pads, pads[len(axes) :], strict=False)
    more = {axis % len(shape): begin + end for axis, begin, end in ends}
    return [size.plus(Size.of(more.get(axis, 0))) for axis, size in enumerate(shape)]


def _resized(node: ir.Node, facts: Facts) -> Partial | None:
    """From the sizes that are asked for; by scales that are whole numbers, for others are rounded."""
    shape, read = facts.shape(node.inputs[0]), node.attributes.get_string
    crops = read("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize"
    if crops or read("keep_aspect_ratio_policy", "stretch") != "stretch" or "axes" in node.attributes:
        return None
    scales = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    if len(node.inputs) > 3 and node.inputs[3] is not None:
        wanted = facts.content(node.inputs[3])
        return wanted if shape is not None and wanted is not None and len(wanted) == len(shape) else None
    if shape is None or scales is None or scales.size != len(shape):
        return None
    numbers = [float(one) for one in scales.numpy()]
    return [
        size.times(Size.of(int(one))) if one.is_integer() else None for size, one in zip(shape, numbers, strict=True)
    ]


SHAPES: dict[str, Rule] = {
    **dict.fromkeys(("AveragePool", "LpPool", "MaxPool"), _windowed),
    **dict.fromkeys(("ConvTranspose", "DepthToSpace", "SpaceToDepth"), _batch_alone),
    **dict.fromkeys(("GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool"), _pooled),
    "Conv": _convolved,
    "Pad": _padded,
    "Resize": _resized,
}
