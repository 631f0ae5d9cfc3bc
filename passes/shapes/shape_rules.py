"""What the shapes of results are: a row for each operator; those on pictures are in picture_rules.py."""

from __future__ import annotations

import functools

import onnx_ir as ir

from passes.computing.indexing import window
from passes.shapes.size_rules import LARGEST_SIZE, Facts, Partial, Rule, axes_of, slice_bounds
from passes.shapes.sizes import ONE, Size, broadcast, product


def _as_input(node: ir.Node, facts: Facts) -> Partial | None:
    return facts.shape(node.inputs[0])


def _broadcast(node: ir.Node, facts: Facts) -> Partial | None:
    if "broadcast" in node.attributes:  # before opset 7 only the second input was widened
        return facts.shape(node.inputs[0])
    shapes = [facts.shape(value) for value in node.inputs]
    found = [shape for shape in shapes if shape is not None]
    return broadcast(found) if len(found) == len(shapes) else None


def _transposed(node: ir.Node, facts: Facts) -> Partial | None:
    shape = facts.shape(node.inputs[0])
    if shape is None:
        return None
    order = node.attributes["perm"].as_ints() if "perm" in node.attributes else range(len(shape))[::-1]
    return [shape[axis] for axis in order]


def _reshaped(node: ir.Node, facts: Facts) -> Partial | None:
    shape, target = facts.shape(node.inputs[0]), facts.content(node.inputs[1] if len(node.inputs) > 1 else None)
    if target is None or shape is None:
        return None
    copies = node.attributes.get_int("allowzero", 0) == 0
    sizes = [shape[i] if copies and one.known == 0 and i < len(shape) else one for i, one in enumerate(target)]
    rest = [i for i, one in enumerate(sizes) if one.known == -1]
    if len(rest) == 1:
        others = product(one for i, one in enumerate(sizes) if i != rest[0])
        quotient = product(shape).over(others)
        return [quotient if i == rest[0] else one for i, one in enumerate(sizes)]
    return None if rest else sizes


def _expanded(node: ir.Node, facts: Facts) -> Partial | None:
    shape, target = facts.shape(node.inputs[0]), facts.content(node.inputs[1])
    return None if shape is None or target is None else broadcast([shape, target])


def _filled(node: ir.Node, facts: Facts) -> Partial | None:
    return facts.content(node.inputs[0])


def _concatenated(node: ir.Node, facts: Facts) -> Partial | None:
    shapes = [facts.shape(value) for value in node.inputs]
    first = shapes[0]
    if first is None or any(shape is None or len(shape) != len(first) for shape in shapes):
        return None
    axis = node.attributes["axis"].as_int() % max(len(first), 1)
    columns = zip(*(shape for shape in shapes if shape is not None), strict=True)
    sums = (functools.reduce(Size.plus, column) for column in columns)
    rest = zip(sums, first, strict=True)  # the other axes of all inputs are equal, or the run fails
    return [total if i == axis else size for i, (total, size) in enumerate(rest)]


def _multiplied(node: ir.Node, facts: Facts) -> Partial | None:
    a, b = facts.shape(node.inputs[0]), facts.shape(node.inputs[1])
    if a is None or b is None or len(a) < 2 or len(b) < 2:
        return None
    return [*broadcast([a[:-2], b[:-2]]), a[-2], b[-1]]


def _counted(node: ir.Node, facts: Facts) -> Partial | None:
    """Of a Range from 0 in steps of 1: as many as its limit says, where that is no difference and so never below 0."""
    columns = [facts.content(value) for value in node.inputs]
    if any(column is None or len(column) != 1 for column in columns):
        return None
    start, limit, step = (column[0] for column in columns if column is not None)
    return [limit] if (start.known, step.known) == (0, 1) and limit.is_count else [None]


def _gathered(node: ir.Node, facts: Facts) -> Partial | None:
    data, indices = facts.shape(node.inputs[0]), facts.shape(node.inputs[1])
    if not data or indices is None:
        return None
    axis = node.attributes.get_int("axis", 0) % len(data)
    return [*data[:axis], *indices, *data[axis + 1 :]]


def _gemm(node: ir.Node, facts: Facts) -> Partial | None:
    a, b = facts.shape(node.inputs[0]), facts.shape(node.inputs[1])
    if a is None or b is None or len(a) != 2 or len(b) != 2:
        return None
    return [a[node.attributes.get_int("transA", 0)], b[1 - node.attributes.get_int("transB", 0)]]


def _picked(node: ir.Node, facts: Facts) -> Partial | None:
    """One entry, or what lies behind it, for each row of indices."""
    data, indices = facts.shape(node.inputs[0]), facts.shape(node.inputs[1])
    depth = indices[-1].known if indices else None
    if data is None or not indices or depth is None or node.attributes.get_int("batch_dims", 0) != 0:
        return None
    return [*indices[:-1], *data[depth:]]


def _attended(node: ir.Node, facts: Facts) -> Partial | None:
    """[batch, sequence, ...] as the queries are, where heads are joined; how wide depends on the values."""
    shape = facts.shape(node.inputs[0])
    return [*shape[:2], None] if shape is not None and len(shape) == 3 else None


def _piece(node: ir.Node, facts: Facts) -> Partial | None:
    """As the whole but along the axis; how long it is there, inference knows."""
    shape = facts.shape(node.inputs[0])
    axis = node.attributes.get_int("axis", 0)
    return [None if at == axis % len(shape) else size for at, size in enumerate(shape)] if shape else None


def _squeezed(node: ir.Node, facts: Facts) -> Partial | None:
    shape, axes = facts.shape(node.inputs[0]), axes_of(node, facts)
    if shape is None or axes is None:
        return None
    gone = {axis % len(shape) for axis in axes}
    return [size for i, size in enumerate(shape) if i not in gone]


def _unsqueezed(node: ir.Node, facts: Facts) -> Partial | None:
    shape, axes = facts.shape(node.inputs[0]), axes_of(node, facts)
    if shape is None or axes is None:
        return None
    rank = len(shape) + len(axes)
    added, rest = {axis % rank for axis in axes}, iter(shape)
    return [ONE if i in added else next(rest) for i in range(rank)]


def _sliced(node: ir.Node, facts: Facts) -> Partial | None:
    shape, bounds = facts.shape(node.inputs[0]), slice_bounds(node, facts)
    if shape is None or bounds is None:
        return None
    cut = {axis % len(shape): (start, end, step) for axis, start, end, step in bounds}
    return [_cut(size, *cut[i]) if i in cut else size for i, size in enumerate(shape)]


def _cut(size: Size, start: int, end: int, step: int) -> Size | None:
    if size.known is not None:
        return Size.of(len(range(size.known)[window(size.known, start, end, step)]))
    return size if start == 0 and end >= LARGEST_SIZE and step == 1 else None


def _reduced(node: ir.Node, facts: Facts) -> Partial | None:
    shape, axes = facts.shape(node.inputs[0]), axes_of(node, facts)
    if shape is None or axes is None or not axes:
        return None
    over, keep = {axis % len(shape) for axis in axes}, node.attributes.get_int("keepdims", 1)
    return [ONE if i in over else size for i, size in enumerate(shape) if keep or i not in over]


def _flattened(node: ir.Node, facts: Facts) -> Partial | None:
    shape = facts.shape(node.inputs[0])
    if shape is None:
        return None
    axis = node.attributes.get_int("axis", 1)
    axis = axis + len(shape) if axis < 0 else axis
    return [product(shape[:axis]), product(shape[axis:])]


def _tiled(node: ir.Node, facts: Facts) -> Partial | None:
    shape, repeats = facts.shape(node.inputs[0]), facts.content(node.inputs[1])
    if shape is None or repeats is None or len(shape) != len(repeats):
        return None
    return [size.times(times) for size, times in zip(shape, repeats, strict=True)]


def _indexed(node: ir.Node, facts: Facts) -> Partial | None:
    return facts.shape(node.inputs[1])


def _recurrent(node: ir.Node, facts: Facts) -> Partial | None:
    """[time, directions, batch, hidden]; with layout 1 the batch comes first."""
    shape, hidden = facts.shape(node.inputs[0]), node.attributes.get_int("hidden_size", 0)
    if shape is None or len(shape) != 3 or not hidden:
        return None
    both = node.attributes.get_string("direction", "forward") == "bidirectional"
    ways, width = Size.of(2 if both else 1), Size.of(hidden)
    if node.attributes.get_int("layout", 0) == 1:
        return [*shape[:2], ways, width]
    return [shape[0], ways, shape[1], width]


def _last_state(node: ir.Node, facts: Facts) -> Partial | None:
    """The same without the time."""
    whole = _recurrent(node, facts)
    if whole is None:
        return None
    return [whole[0], *whole[2:]] if node.attributes.get_int("layout", 0) == 1 else whole[1:]


AS_INPUT = """
    Abs Acos Asin Atan BatchNormalization Bernoulli Cast Ceil Celu Clip Cos CumSum DequantizeLinear Dropout Elu Erf Exp
    Floor Gelu HardSigmoid HardSwish Identity InstanceNormalization IsInf IsNaN LayerNormalization LeakyRelu Log
    LogSoftmax LpNormalization Mish Neg Not QuantizeLinear RMSNormalization Reciprocal Relu RotaryEmbedding Round
    ScatterElements ScatterND Selu Sigmoid Sign Sin Softmax Softplus Softsign Sqrt Swish Tanh ThresholdedRelu Trilu
"""
BROADCASTING = "Add And Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean Min Mod Mul Or Pow Sub Sum Where Xor"
REDUCTIONS = "ReduceL1 ReduceL2 ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare"

SHAPES: dict[str, Rule] = {
    **dict.fromkeys(AS_INPUT.split(), _as_input),
    **dict.fromkeys(BROADCASTING.split(), _broadcast),
    **dict.fromkeys(REDUCTIONS.split(), _reduced),
    "Concat": _concatenated,
    "ConstantOfShape": _filled,
    "Expand": _expanded,
    "Flatten": _flattened,
    "Gather": _gathered,
    "GatherElements": _indexed,
    "GatherND": _picked,
    "Gemm": _gemm,
    "MatMul": _multiplied,
    "Range": _counted,
    "Reshape": _reshaped,
    "Slice": _sliced,
    "Squeeze": _squeezed,
    "Tile": _tiled,
    "Transpose": _transposed,
    "Unsqueeze": _unsqueezed,
}

MICROSOFT = "com.microsoft"
MOST_PIECES = 64  # of a Split; those behind are known by their declared shape
# Operators that have more than one output, or are ONNX Runtime's own: (domain, operator) -> place of an output -> rule.
OF_MANY_OUTPUTS: dict[tuple[str, str], dict[int, Rule]] = {
    ("", "Attention"): {0: _attended},
    **{("", one): {0: _recurrent, 1: _last_state, 2: _last_state} for one in ("GRU", "LSTM", "RNN")},
    ("", "Split"): dict.fromkeys(range(MOST_PIECES), _piece),
    (MICROSOFT, "BiasGelu"): {0: _as_input},
    (MICROSOFT, "FastGelu"): {0: _as_input},
    (MICROSOFT, "Gelu"): {0: _as_input},
    (MICROSOFT, "GroupQueryAttention"): {0: _attended},
    (MICROSOFT, "MultiHeadAttention"): {0: _attended},
    (MICROSOFT, "QuickGelu"): {0: _as_input},
    (MICROSOFT, "SkipLayerNormalization"): {0: _as_input, 3: _as_input},
    (MICROSOFT, "SkipSimplifiedLayerNormalization"): {0: _as_input, 3: _as_input},
}
