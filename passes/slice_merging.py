"""Slices in a row are one.

    a = Slice(x, 2, 30, axis 0); y = Slice(a, 1, 5, axis 1)      ->     y = Slice(x, [2, 1], [30, 5], axes [0, 1])
    a = Slice(x, 2, 30, axis 0); y = Slice(a, 1, 5, axis 0)      ->     y = Slice(x, 3, 7, axis 0)

Along one axis of known size Python's ranges say what is left. Of an unknown size n only what holds for every n is
merged: x[s:e:p][t:f:q] = x[s + t p : min(e, s + f p) : p q] where nothing but an end is counted from the end.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import numpy as np
import onnx_ir as ir

from passes.computing.indexing import window
from passes.local import LocalPass, Scope, producer_of, require, sole_reader
from passes.shapes.size_rules import LARGEST_SIZE, slice_bounds

FIRST_WITH_INPUTS = 10  # before, the numbers were attributes, and every step was 1


class Cut(NamedTuple):
    """[start:end:step] of one axis, as the standard means it."""

    start: int
    end: int
    step: int


class SliceMerging(LocalPass):
    """The second cuts what the first was given. Nobody else reads what the first gives: it would be cut twice."""

    operators: ClassVar[frozenset[str]] = frozenset({"Slice"})

    def rewrite(self, node: ir.Node, scope: Scope) -> bool:
        middle = node.inputs[0]
        first = producer_of(middle, "Slice")
        if first is None or middle is None or first.inputs[0] is None or first.graph is not node.graph:
            return False
        require(sole_reader(middle), f"others read '{middle.name}'")
        shape = scope.symbols.shape(first.inputs[0])
        rank = None if shape is None else len(shape)
        inner, outer = (_cuts(one, rank, scope) for one in (first, node))
        require(
            inner is not None and outer is not None, f"its numbers, or those before '{middle.name}', are made in a run"
        )
        assert inner is not None, "held above"
        assert outer is not None, "held above"
        one_way = all(axis >= 0 for axis in (*inner, *outer)) or all(axis < 0 for axis in (*inner, *outer))
        require(one_way, "its axes are counted from both ends of an unknown rank")
        merged = dict(inner)
        for axis, cut in outer.items():
            size = None if shape is None else shape[axis].known
            merged[axis] = _then(inner[axis], cut, size, axis) if axis in inner else cut
        _write(node, first.inputs[0], merged, scope)
        return True


def _cuts(node: ir.Node, rank: int | None, scope: Scope) -> dict[int, Cut] | None:
    """By axis, counted from the front where the rank is known."""
    bounds = slice_bounds(node, scope.symbols)
    if bounds is None:
        return None
    return {axis if rank is None else axis % rank: Cut(*numbers) for axis, *numbers in bounds}


def _then(inner: Cut, outer: Cut, size: int | None, axis: int) -> Cut:
    if size is None:
        return _of_any_size(inner, outer, axis)
    middle = range(size)[window(size, *inner)]
    left = middle[window(len(middle), *outer)]
    if not left:
        return Cut(0, 0, 1)
    return Cut(left.start, left.stop if left.stop >= 0 else -size - 1, left.step)  # -1 would be the last entry


def _of_any_size(inner: Cut, outer: Cut, axis: int) -> Cut:
    forward = min(inner.step, outer.step) > 0 and min(inner.start, outer.start) >= 0
    require(forward, f"axis {axis} has no size before a run, and is cut from its end or backwards")
    start, step = inner.start + outer.start * inner.step, inner.step * outer.step
    if outer.end >= LARGEST_SIZE:
        return Cut(start, inner.end, step)
    if outer.end >= 0:
        end = min(LARGEST_SIZE, inner.start + outer.end * inner.step)
        require(inner.end >= 0, f"axis {axis} has no size before a run, and is cut from both of its ends")
        return Cut(start, min(inner.end, end), step)
    from_the_end = inner.step == 1 and (inner.end < 0 or inner.end >= LARGEST_SIZE)
    require(from_the_end, f"axis {axis} has no size before a run, and is cut from both of its ends")
    return Cut(start, outer.end + min(inner.end, 0), step)


def _write(node: ir.Node, source: ir.Value, cuts: dict[int, Cut], scope: Scope) -> None:
    axes = list(cuts)
    starts, ends, steps = (list(column) for column in zip(*cuts.values(), strict=True))
    if scope.opset < FIRST_WITH_INPUTS:
        columns = {"starts": starts, "ends": ends, "axes": axes}
        node.attributes.update({name: ir.AttrInt64s(name, numbers) for name, numbers in columns.items()})
        node.replace_input_with(0, source)
        return
    constants = [
        scope.constant(np.array(numbers, np.int64), f"{node.outputs[0].name}_{name}")
        for name, numbers in (("starts", starts), ("ends", ends), ("axes", axes), ("steps", steps))
    ]
    node.resize_inputs(5)
    for place, value in enumerate([source, *constants]):
        node.replace_input_with(place, value)
