"""What a rule of sizes is, and what rules read of their nodes: axes and bounds, attributes once and inputs since.

Gather(s, [0])   with s = (N, 12, 64)    ->    (N,)        a rule of contents: content_rules.py
MatMul(x, w)     of [N, 12] and [12, 64] ->    [N, 64]     a rule of shapes: shape_rules.py, picture_rules.py
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import onnx_ir as ir

from passes.shapes.sizes import Size, Sizes, known

LARGEST_SIZE = 2**31 - 1  # what exporters write for "to the end"; no axis of a tensor that runs is longer


class Facts(Protocol):
    """What is known so far; `Symbols` is."""

    def shape(self, value: ir.Value | None) -> Sizes | None:
        """One size an axis; None where not even the rank is known."""

    def content(self, value: ir.Value | None) -> Sizes | None:
        """The entries of a small integer tensor of rank 0 or 1."""


Partial = Sequence[Size | None]  # None: what the rule cannot tell
Rule = Callable[[ir.Node, Facts], Partial | None]


def axes_of(node: ir.Node, facts: Facts) -> list[int] | None:
    """`axes` of Squeeze, Unsqueeze or a reduction: an attribute, later an input; None where not given or not known."""
    if "axes" in node.attributes:
        return list(node.attributes["axes"].as_ints())
    return known(facts.content(node.inputs[1])) if len(node.inputs) > 1 else None


def slice_bounds(node: ir.Node, facts: Facts) -> list[tuple[int, int, int, int]] | None:
    """(axis, start, end, step) of a Slice whose numbers are all known; before opset 10 they are attributes."""
    if "starts" in node.attributes:
        starts, ends = (list(node.attributes[name].as_ints()) for name in ("starts", "ends"))
        over = node.attributes["axes"].as_ints() if "axes" in node.attributes else range(len(starts))
        return [(*one, 1) for one in zip(over, starts, ends, strict=True)]
    columns = [known(facts.content(value)) for value in node.inputs[1:]]
    if len(columns) < 2 or columns[0] is None or columns[1] is None:
        return None
    for value, column in zip(node.inputs[1:], columns, strict=True):
        if value is not None and column is None:
            return None
    axes_given, steps = (*columns[2:], None, None)[:2]
    axes = list(range(len(columns[0]))) if axes_given is None else axes_given
    steps = [1] * len(axes) if steps is None else steps
    return list(zip(axes, columns[0], columns[1], steps, strict=True))
