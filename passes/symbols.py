"""What is known of shapes before a run: each dimension as a polynomial of symbols, and what small shape tensors hold.

    x: float[N, 12, 64]         shape(x)   = (N, 12, 64)
    s = Shape(x)                content(s) = (N, 12, 64)
    n = s[0] * s[1] + 1         content(n) = (12 N + 1,)

A symbol stands for one axis of one value, so that two equal polynomials are equal in every run. The names that a file
gives to the dimensions of its inputs are used on demand alone: nothing holds a caller to them.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from passes.constants import constant
from passes.indexing import window
from passes.nesting import every_node

Symbol = tuple[str, int]  # a value's name and an axis; as content: its name and the place of the element
ENTRY = "[]"  # behind the name of a value, where a symbol is what it holds
LONGEST_CONTENT = 64  # entries; shapes are shorter, and weights are not for us


Product = tuple[Symbol, ...]  # sorted; empty for 1


class Size(NamedTuple):
    """A whole number, known or not: the sum of products of symbols, each with its factor, sorted and none of them 0."""

    terms: tuple[tuple[Product, int], ...]

    @classmethod
    def of(cls, number: int) -> Size:
        return cls((((), number),) if number else ())

    @classmethod
    def symbol(cls, name: str, place: int) -> Size:
        return cls(((((name, place),), 1),))

    @classmethod
    def sum_of(cls, terms: Iterable[tuple[Product, int]]) -> Size:
        factors: dict[Product, int] = {}
        for symbols, factor in terms:
            factors[symbols] = factors.get(symbols, 0) + factor
        return cls(tuple(sorted((symbols, factor) for symbols, factor in factors.items() if factor)))

    @property
    def known(self) -> int | None:
        if not self.terms:
            return 0
        (symbols, factor), *rest = self.terms
        return None if rest or symbols else factor

    @property
    def symbols(self) -> set[Symbol]:
        return {symbol for symbols, _ in self.terms for symbol in symbols}

    @property
    def is_count(self) -> bool:
        """Whether it cannot be below 0: sizes of axes, added up and multiplied. Entries of a tensor may be."""
        return all(factor > 0 for _, factor in self.terms) and not any(name.endswith(ENTRY) for name, _ in self.symbols)

    def plus(self, other: Size) -> Size:
        return Size.sum_of((*self.terms, *other.terms))

    def times(self, other: Size) -> Size:
        pairs = itertools.product(self.terms, other.terms)
        return Size.sum_of((tuple(sorted((*a, *b))), m * n) for (a, m), (b, n) in pairs)

    def over(self, other: Size) -> Size | None:
        """The exact quotient, where it can be told."""
        if self == other:
            return ONE
        if len(other.terms) != 1:
            return None
        ((divisor, number),) = other.terms
        terms = [_without(symbols, divisor) for symbols, _ in self.terms]
        if any(left is None for left in terms) or any(factor % number for _, factor in self.terms):
            return None
        pairs = zip(terms, self.terms, strict=True)
        return Size.sum_of((left, factor // number) for left, (_, factor) in pairs if left is not None)


def _without(symbols: Product, divisor: Product) -> Product | None:
    left = list(symbols)
    for symbol in divisor:
        if symbol not in left:
            return None
        left.remove(symbol)
    return tuple(left)


Sizes = tuple[Size, ...]
ONE = Size.of(1)


def product(sizes: Iterable[Size]) -> Size:
    result = ONE
    for size in sizes:
        result = result.times(size)
    return result


def known(sizes: Sizes | None) -> list[int] | None:
    """All of them as numbers, or None."""
    if sizes is None:
        return None
    numbers = [size.known for size in sizes]
    return [number for number in numbers if number is not None] if None not in numbers else None


class Symbols:
    """Shapes and contents of the values of a graph and of the graphs inside it."""

    def __init__(self, root: ir.Graph, *, trust_names: bool = False) -> None:
        """`trust_names`: dimensions under the name of an input's dimension are equal to it, as their author says."""
        self._names = _trusted(root) if trust_names else {}
        self._shapes: dict[ir.Value, Sizes | None] = {}
        self._contents: dict[ir.Value, Sizes | None] = {}
        for node in every_node(root):
            self._note(node)

    def shape(self, value: ir.Value | None) -> Sizes | None:
        """One size an axis; None where not even the rank is known."""
        if value is None:
            return None
        if value not in self._shapes:
            self._shapes[value] = self._declared(value)
        return self._shapes[value]

    def content(self, value: ir.Value | None) -> Sizes | None:
        """The entries of a small integer tensor of rank 0 or 1."""
        if value is None:
            return None
        if value not in self._contents:
            self._contents[value] = _held(value)
        return self._contents[value]

    def _note(self, node: ir.Node) -> None:
        for place, rule in OF_MANY_OUTPUTS.get((node.domain, node.op_type), {}).items():
            if place < len(node.outputs):
                self._shapes[node.outputs[place]] = self._shape_by(rule, node, place)
        if node.domain != "" or len(node.outputs) != 1:
            return
        output = node.outputs[0]
        if content_rule := CONTENTS.get(node.op_type):
            self._contents[output] = self._content_by(content_rule, node)
        if shape_rule := SHAPES.get(node.op_type):
            self._shapes[output] = self._shape_by(shape_rule, node)

    def _shape_by(self, rule: Rule, node: ir.Node, place: int = 0) -> Sizes | None:
        output = node.outputs[place]
        return _refined(output, self._declared(output), rule(node, self))

    def _content_by(self, rule: Rule, node: ir.Node) -> Sizes | None:
        output = node.outputs[0]
        if output.dtype not in (None, ir.DataType.INT64, ir.DataType.INT32):
            return None
        shape = self._declared(output)
        if shape is not None and len(shape) > 1:
            return None
        found = rule(node, self)
        if found is None or len(found) > LONGEST_CONTENT:
            return None
        # An entry that no rule can tell is a symbol of its own.
        own = f"{output.name}{ENTRY}"
        return tuple(Size.symbol(own, i) if one is None else one for i, one in enumerate(found))

    def _declared(self, value: ir.Value) -> Sizes | None:
        """The shape that inference or the file gives; what an output declares is its author's word, and not used."""
        tensor = constant(value)
        if tensor is not None:
            return tuple(Size.of(size) for size in tensor.shape.numpy())
        shape = value.meta.get(INFERRED, None) if value.is_graph_output() else value.shape
        if shape is None:
            return None
        own = f"{GIVEN}{value.name}" if value.is_graph_input() else str(value.name)
        return tuple(self._size(size, Size.symbol(own, axis)) for axis, size in enumerate(shape))

    def _size(self, size: int | ir.SymbolicDim, own: Size) -> Size:
        if isinstance(size, int):
            return Size.of(size) if size >= 0 else own
        return self._names.get(str(size.value), own)


SHARED = "symbols"  # key in `Model.meta`: a list of the one Symbols of its main graph, or of none yet


def share_symbols(model: ir.Model) -> None:
    """From now on the passes that see the model as it is share what they find out; called again where it changed."""
    model.meta[SHARED] = []


def unshare_symbols(model: ir.Model) -> None:
    model.meta.pop(SHARED, None)


def shared_symbols(model: ir.Model) -> Symbols:
    """Those of an earlier pass, where the model is shared and has not changed since."""
    held: list[Symbols] = model.meta.get(SHARED, [])
    if not held:
        held.append(Symbols(model.graph))
    return held[0]


Partial = Sequence[Size | None]
Rule = Callable[[ir.Node, Symbols], Partial | None]


def _trusted(root: ir.Graph) -> dict[str, Size]:
    """The axes of inputs by their names; a name that one input bears twice, such as "?", is none."""
    known: set[str] = set()
    distrusted: set[str] = set()
    for value in root.inputs:
        names = [size.value for size in value.shape or () if isinstance(size, ir.SymbolicDim) and size.value]
        known |= set(names)
        distrusted |= {name for name in names if names.count(name) > 1}
    return {name: Size.symbol(f"{GIVEN}{name}", 0) for name in known - distrusted}


GIVEN = "input "  # how the symbols of a graph input's axes begin
INFERRED = "shape as inferred"  # key in `Value.meta` of a graph output


def _refined(output: ir.Value, declared: Sizes | None, rule: Partial | None) -> Sizes | None:
    """A number that inference knows, else what the rule says, else a symbol of the output's own."""
    if rule is None:
        return declared
    if declared is None or len(declared) != len(rule):
        own = (Size.symbol(str(output.name), axis) for axis in range(len(rule)))
        return tuple(mine if one is None else one for one, mine in zip(rule, own, strict=True))
    pairs = zip(declared, rule, strict=True)
    return tuple(mine if one is None or mine.known is not None else one for mine, one in pairs)


def _held(value: ir.Value) -> Sizes | None:
    tensor = constant(value)
    if tensor is None or tensor.dtype not in (ir.DataType.INT64, ir.DataType.INT32):
        return None
    if len(tensor.shape) > 1 or tensor.size > LONGEST_CONTENT:
        return None
    return tuple(Size.of(int(number)) for number in np.atleast_1d(tensor.numpy()))


# --- what the entries of shape tensors are ---------------------------------------------------------------------------


def _shape_of(node: ir.Node, symbols: Symbols) -> Partial | None:
    shape = symbols.shape(node.inputs[0])
    return None if shape is None else shape[node.attributes.get_int("start", 0) : _end(node)]


def _end(node: ir.Node) -> int | None:
    end = node.attributes.get("end")
    return None if end is None else end.as_int()


def _size_of(node: ir.Node, symbols: Symbols) -> Partial | None:
    shape = symbols.shape(node.inputs[0])
    return None if shape is None else (product(shape),)


def _same(node: ir.Node, symbols: Symbols) -> Partial | None:
    return symbols.content(node.inputs[0])


def _cast(node: ir.Node, symbols: Symbols) -> Partial | None:
    """No size of a tensor that runs is too large for an INT32."""
    given = node.inputs[0].dtype if node.inputs[0] is not None else None
    whole = {ir.DataType.INT64, ir.DataType.INT32}
    return symbols.content(node.inputs[0]) if whole.issuperset({given, node.attributes.get_int("to", 0)}) else None


def _gather(node: ir.Node, symbols: Symbols) -> Partial | None:
    content, indices = symbols.content(node.inputs[0]), known(symbols.content(node.inputs[1]))
    if content is None or indices is None or _rank(node.inputs[0], symbols) != 1:
        return None
    if not all(-len(content) <= index < len(content) for index in indices):
        return None
    return [content[index] for index in indices]


def _slice(node: ir.Node, symbols: Symbols) -> Partial | None:
    content = symbols.content(node.inputs[0])
    bounds = slice_bounds(node, symbols)
    if content is None or bounds is None or len(bounds) != 1 or _rank(node.inputs[0], symbols) != 1:
        return None
    ((_, start, end, step),) = bounds
    return content[window(len(content), start, end, step)]


def slice_bounds(node: ir.Node, symbols: Symbols) -> list[tuple[int, int, int, int]] | None:
    """(axis, start, end, step) of a Slice whose numbers are all known; before opset 10 they are attributes."""
    if "starts" in node.attributes:
        starts, ends = (list(node.attributes[name].as_ints()) for name in ("starts", "ends"))
        over = node.attributes["axes"].as_ints() if "axes" in node.attributes else range(len(starts))
        return [(*one, 1) for one in zip(over, starts, ends, strict=True)]
    columns = [known(symbols.content(value)) for value in node.inputs[1:]]
    if len(columns) < 2 or columns[0] is None or columns[1] is None:
        return None
    for value, column in zip(node.inputs[1:], columns, strict=True):
        if value is not None and column is None:
            return None
    axes_given, steps = (*columns[2:], None, None)[:2]
    axes = list(range(len(columns[0]))) if axes_given is None else axes_given
    steps = [1] * len(axes) if steps is None else steps
    return list(zip(axes, columns[0], columns[1], steps, strict=True))


def _concat(node: ir.Node, symbols: Symbols) -> Partial | None:
    parts: list[Size | None] = []
    for value in node.inputs:
        content = symbols.content(value)
        if content is None:
            return None
        parts += content
    return parts


def _arithmetic(compute: Callable[[Size, Size], Size | None]) -> Rule:
    def rule(node: ir.Node, symbols: Symbols) -> Partial | None:
        a, b = symbols.content(node.inputs[0]), symbols.content(node.inputs[1])
        if a is None or b is None or (len(a) != len(b) and 1 not in (len(a), len(b))):
            return None
        length = max(len(a), len(b)) if a and b else 0
        left, right = (one * length if len(one) == 1 else one for one in (a, b))
        return [compute(one, other) for one, other in zip(left, right, strict=True)]

    return rule


def _difference(a: Size, b: Size) -> Size | None:
    return a.plus(b.times(Size.of(-1)))


def _quotient(a: Size, b: Size) -> Size | None:
    """Exact ones only: how a rest is cut depends on signs."""
    return a.over(b)


def _reduced_product(node: ir.Node, symbols: Symbols) -> Partial | None:
    content = symbols.content(node.inputs[0])
    return None if content is None or _rank(node.inputs[0], symbols) != 1 else (product(content),)


def _rank(value: ir.Value | None, symbols: Symbols) -> int | None:
    shape = symbols.shape(value)
    return None if shape is None else len(shape)


CONTENTS: dict[str, Rule] = {
    "Add": _arithmetic(lambda a, b: a.plus(b)),
    "Cast": _cast,
    "Concat": _concat,
    "Div": _arithmetic(_quotient),
    "Gather": _gather,
    "Identity": _same,
    "Mul": _arithmetic(lambda a, b: a.times(b)),
    "ReduceProd": _reduced_product,
    "Reshape": _same,
    "Shape": _shape_of,
    "Size": _size_of,
    "Slice": _slice,
    "Squeeze": _same,
    "Sub": _arithmetic(_difference),
    "Unsqueeze": _same,
}

# --- what the shapes of results are ----------------------------------------------------------------------------------


def _as_input(node: ir.Node, symbols: Symbols) -> Partial | None:
    return symbols.shape(node.inputs[0])


def _broadcast(node: ir.Node, symbols: Symbols) -> Partial | None:
    if "broadcast" in node.attributes:  # before opset 7 only the second input was widened
        return symbols.shape(node.inputs[0])
    shapes = [symbols.shape(value) for value in node.inputs]
    found = [shape for shape in shapes if shape is not None]
    return broadcast(found) if len(found) == len(shapes) else None


def broadcast(shapes: Sequence[Sizes]) -> list[Size | None]:
    """The common shape; None for an axis that a run decides."""
    rank = max(map(len, shapes), default=0)
    padded = [(ONE,) * (rank - len(shape)) + shape for shape in shapes]
    return [_common(column) for column in zip(*padded, strict=True)]


def _common(column: Sequence[Size]) -> Size | None:
    wide = {size for size in column if size != ONE}
    for size in wide:
        if (size.known or 0) > 1:
            return size
    if len(wide) > 1:
        return None
    return next(iter(wide), ONE)


def _transposed(node: ir.Node, symbols: Symbols) -> Partial | None:
    shape = symbols.shape(node.inputs[0])
    if shape is None:
        return None
    order = node.attributes["perm"].as_ints() if "perm" in node.attributes else range(len(shape))[::-1]
    return [shape[axis] for axis in order]


def _reshaped(node: ir.Node, symbols: Symbols) -> Partial | None:
    shape, target = symbols.shape(node.inputs[0]), symbols.content(node.inputs[1] if len(node.inputs) > 1 else None)
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


def _expanded(node: ir.Node, symbols: Symbols) -> Partial | None:
    shape, target = symbols.shape(node.inputs[0]), symbols.content(node.inputs[1])
    return None if shape is None or target is None else broadcast([shape, target])


def _filled(node: ir.Node, symbols: Symbols) -> Partial | None:
    return symbols.content(node.inputs[0])


def _concatenated(node: ir.Node, symbols: Symbols) -> Partial | None:
    shapes = [symbols.shape(value) for value in node.inputs]
    first = shapes[0]
    if first is None or any(shape is None or len(shape) != len(first) for shape in shapes):
        return None
    axis = node.attributes["axis"].as_int() % max(len(first), 1)
    columns = zip(*(shape for shape in shapes if shape is not None), strict=True)
    sums = (functools.reduce(Size.plus, column) for column in columns)
    rest = zip(sums, first, strict=True)  # the other axes of all inputs are equal, or the run fails
    return [total if i == axis else size for i, (total, size) in enumerate(rest)]


def _multiplied(node: ir.Node, symbols: Symbols) -> Partial | None:
    a, b = symbols.shape(node.inputs[0]), symbols.shape(node.inputs[1])
    if a is None or b is None or len(a) < 2 or len(b) < 2:
        return None
    return [*broadcast([a[:-2], b[:-2]]), a[-2], b[-1]]


def _counted(node: ir.Node, symbols: Symbols) -> Partial | None:
    """Of a Range from 0 in steps of 1: as many as its limit says, where that is no difference and so never below 0."""
    columns = [symbols.content(value) for value in node.inputs]
    if any(column is None or len(column) != 1 for column in columns):
        return None
    start, limit, step = (column[0] for column in columns if column is not None)
    return [limit] if (start.known, step.known) == (0, 1) and limit.is_count else [None]


def _gathered(node: ir.Node, symbols: Symbols) -> Partial | None:
    data, indices = symbols.shape(node.inputs[0]), symbols.shape(node.inputs[1])
    if not data or indices is None:
        return None
    axis = node.attributes.get_int("axis", 0) % len(data)
    return [*data[:axis], *indices, *data[axis + 1 :]]


def _gemm(node: ir.Node, symbols: Symbols) -> Partial | None:
    a, b = symbols.shape(node.inputs[0]), symbols.shape(node.inputs[1])
    if a is None or b is None or len(a) != 2 or len(b) != 2:
        return None
    return [a[node.attributes.get_int("transA", 0)], b[1 - node.attributes.get_int("transB", 0)]]


def _picked(node: ir.Node, symbols: Symbols) -> Partial | None:
    """One entry, or what lies behind it, for each row of indices."""
    data, indices = symbols.shape(node.inputs[0]), symbols.shape(node.inputs[1])
    depth = indices[-1].known if indices else None
    if data is None or not indices or depth is None or node.attributes.get_int("batch_dims", 0) != 0:
        return None
    return [*indices[:-1], *data[depth:]]


def _attended(node: ir.Node, symbols: Symbols) -> Partial | None:
    """[batch, sequence, ...] as the queries are, where heads are joined; how wide depends on the values."""
    shape = symbols.shape(node.inputs[0])
    return [*shape[:2], None] if shape is not None and len(shape) == 3 else None


def _piece(node: ir.Node, symbols: Symbols) -> Partial | None:
    """As the whole but along the axis; how long it is there, inference knows."""
    shape = symbols.shape(node.inputs[0])
    axis = node.attributes.get_int("axis", 0)
    return [None if at == axis % len(shape) else size for at, size in enumerate(shape)] if shape else None


def axes_of(node: ir.Node, symbols: Symbols) -> list[int] | None:
    """`axes` of Squeeze, Unsqueeze or a reduction: an attribute, later an input; None where not given or not known."""
    if "axes" in node.attributes:
        return list(node.attributes["axes"].as_ints())
    return known(symbols.content(node.inputs[1])) if len(node.inputs) > 1 else None


def _squeezed(node: ir.Node, symbols: Symbols) -> Partial | None:
    shape, axes = symbols.shape(node.inputs[0]), axes_of(node, symbols)
    if shape is None or axes is None:
        return None
    gone = {axis % len(shape) for axis in axes}
    return [size for i, size in enumerate(shape) if i not in gone]


def _unsqueezed(node: ir.Node, symbols: Symbols) -> Partial | None:
    shape, axes = symbols.shape(node.inputs[0]), axes_of(node, symbols)
    if shape is None or axes is None:
        return None
    rank = len(shape) + len(axes)
    added, rest = {axis % rank for axis in axes}, iter(shape)
    return [ONE if i in added else next(rest) for i in range(rank)]


def _sliced(node: ir.Node, symbols: Symbols) -> Partial | None:
    shape, bounds = symbols.shape(node.inputs[0]), slice_bounds(node, symbols)
    if shape is None or bounds is None:
        return None
    cut = {axis % len(shape): (start, end, step) for axis, start, end, step in bounds}
    return [_cut(size, *cut[i]) if i in cut else size for i, size in enumerate(shape)]


def _cut(size: Size, start: int, end: int, step: int) -> Size | None:
    if size.known is not None:
        return Size.of(len(range(size.known)[window(size.known, start, end, step)]))
    return size if start == 0 and end >= LARGEST_SIZE and step == 1 else None


LARGEST_SIZE = 2**31 - 1  # what exporters write for "to the end"; no axis of a tensor that runs is longer


def _reduced(node: ir.Node, symbols: Symbols) -> Partial | None:
    shape, axes = symbols.shape(node.inputs[0]), axes_of(node, symbols)
    if shape is None or axes is None or not axes:
        return None
    over, keep = {axis % len(shape) for axis in axes}, node.attributes.get_int("keepdims", 1)
    return [ONE if i in over else size for i, size in enumerate(shape) if keep or i not in over]


def _flattened(node: ir.Node, symbols: Symbols) -> Partial | None:
    shape = symbols.shape(node.inputs[0])
    if shape is None:
        return None
    axis = node.attributes.get_int("axis", 1)
    axis = axis + len(shape) if axis < 0 else axis
    return [product(shape[:axis]), product(shape[axis:])]


def _windowed(node: ir.Node, symbols: Symbols) -> Partial | None:
    """A pool keeps batch and channels, and along the others what a window that moves by 1 leaves."""
    shape = symbols.shape(node.inputs[0])
    if shape is None or len(shape) < 3:
        return None
    window = list(node.attributes["kernel_shape"].as_ints()) if "kernel_shape" in node.attributes else []
    return [*shape[:2], *_along_window(node, shape[2:], window)]


def _convolved(node: ir.Node, symbols: Symbols) -> Partial | None:
    shape, weight = symbols.shape(node.inputs[0]), symbols.shape(node.inputs[1])
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


def _pooled(node: ir.Node, symbols: Symbols) -> Partial | None:
    shape = symbols.shape(node.inputs[0])
    return None if shape is None else [*shape[:2], *(ONE for _ in shape[2:])]


def _batch_alone(node: ir.Node, symbols: Symbols) -> Partial | None:
    shape = symbols.shape(node.inputs[0])
    return None if not shape else [shape[0], *(None for _ in shape[1:])]


def _padded(node: ir.Node, symbols: Symbols) -> Partial | None:
    shape = symbols.shape(node.inputs[0])
    given = node.inputs[3] if len(node.inputs) > 3 else None
    axes = known(symbols.content(given)) if given is not None else list(range(len(shape or ())))
    by_attribute = "pads" in node.attributes
    amounts = symbols.content(node.inputs[1]) if len(node.inputs) > 1 else None
    pads = list(node.attributes["pads"].as_ints()) if by_attribute else known(amounts)
    if shape is None or axes is None or pads is None or len(pads) != 2 * len(axes):
        return None
    ends = zip(axes, pads, pads[len(axes) :], strict=False)
    more = {axis % len(shape): begin + end for axis, begin, end in ends}
    return [size.plus(Size.of(more.get(axis, 0))) for axis, size in enumerate(shape)]


def _tiled(node: ir.Node, symbols: Symbols) -> Partial | None:
    shape, repeats = symbols.shape(node.inputs[0]), symbols.content(node.inputs[1])
    if shape is None or repeats is None or len(shape) != len(repeats):
        return None
    return [size.times(times) for size, times in zip(shape, repeats, strict=True)]


def _resized(node: ir.Node, symbols: Symbols) -> Partial | None:
    """From the sizes that are asked for; by scales that are whole numbers, for others are rounded."""
    shape, read = symbols.shape(node.inputs[0]), node.attributes.get_string
    crops = read("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize"
    if crops or read("keep_aspect_ratio_policy", "stretch") != "stretch" or "axes" in node.attributes:
        return None
    scales = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    if len(node.inputs) > 3 and node.inputs[3] is not None:
        wanted = symbols.content(node.inputs[3])
        return wanted if shape is not None and wanted is not None and len(wanted) == len(shape) else None
    if shape is None or scales is None or scales.size != len(shape):
        return None
    numbers = [float(one) for one in scales.numpy()]
    return [
        size.times(Size.of(int(one))) if one.is_integer() else None for size, one in zip(shape, numbers, strict=True)
    ]


def _indexed(node: ir.Node, symbols: Symbols) -> Partial | None:
    return symbols.shape(node.inputs[1])


def _recurrent(node: ir.Node, symbols: Symbols) -> Partial | None:
    """[time, directions, batch, hidden]; with layout 1 the batch comes first."""
    shape, hidden = symbols.shape(node.inputs[0]), node.attributes.get_int("hidden_size", 0)
    if shape is None or len(shape) != 3 or not hidden:
        return None
    both = node.attributes.get_string("direction", "forward") == "bidirectional"
    ways, width = Size.of(2 if both else 1), Size.of(hidden)
    if node.attributes.get_int("layout", 0) == 1:
        return [*shape[:2], ways, width]
    return [shape[0], ways, shape[1], width]


def _last_state(node: ir.Node, symbols: Symbols) -> Partial | None:
    """The same without the time."""
    whole = _recurrent(node, symbols)
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
    **dict.fromkeys(("AveragePool", "LpPool", "MaxPool"), _windowed),
    **dict.fromkeys(("ConvTranspose", "DepthToSpace", "SpaceToDepth"), _batch_alone),
    **dict.fromkeys(("GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool"), _pooled),
    "Concat": _concatenated,
    "ConstantOfShape": _filled,
    "Conv": _convolved,
    "Expand": _expanded,
    "Flatten": _flattened,
    "Gather": _gathered,
    "GatherElements": _indexed,
    "GatherND": _picked,
    "Gemm": _gemm,
    "MatMul": _multiplied,
    "Pad": _padded,
    "Range": _counted,
    "Reshape": _reshaped,
    "Resize": _resized,
    "Slice": _sliced,
    "Squeeze": _squeezed,
    "Tile": _tiled,
    "Transpose": _transposed,
    "Unsqueeze": _unsqueezed,
}

MICROSOFT = "com.microsoft"
# Operators that have more than one output, or are ONNX Runtime's own: (domain, operator) -> place of an output -> rule.
OF_MANY_OUTPUTS: dict[tuple[str, str], dict[int, Rule]] = {
    ("", "Attention"): {0: _attended},
    **{("", one): {0: _recurrent, 1: _last_state, 2: _last_state} for one in ("GRU", "LSTM", "RNN")},
    ("", "Split"): dict.fromkeys(range(LONGEST_CONTENT), _piece),
    (MICROSOFT, "BiasGelu"): {0: _as_input},
    (MICROSOFT, "FastGelu"): {0: _as_input},
    (MICROSOFT, "Gelu"): {0: _as_input},
    (MICROSOFT, "GroupQueryAttention"): {0: _attended},
    (MICROSOFT, "MultiHeadAttention"): {0: _attended},
    (MICROSOFT, "QuickGelu"): {0: _as_input},
    (MICROSOFT, "SkipLayerNormalization"): {0: _as_input, 3: _as_input},
    (MICROSOFT, "SkipSimplifiedLayerNormalization"): {0: _as_input, 3: _as_input},
}
