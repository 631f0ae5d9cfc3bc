"""The plan of one pass of calibration data: linears that share inputs, and the segments of plain nodes between them.

    x -> q, k, v -> [attention] -> o -> [norm] -> gate, up -> [silu, mul] -> down -> [norm] -> ...
         group 0     segment 1    1     seg. 2    group 2      segment 3      3

Take all linears out and the graph falls into segments that hold no big weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from compressor.graph import value_types
from compressor.quantize.flow.convolution import Window
from compressor.quantize.flow.linears import Input, Linear, in_order

# A value that needs no weight above this can be made again in every segment (masks, rotary tables), which costs less
# than keeping a [batch, 1, sequence, sequence] mask for every batch.
REMADE_BELOW_BYTES = 1 << 16


@dataclass(frozen=True)
class Segment:
    """Plain nodes between two groups: run `model` on values from before, to get `x` and what later segments need."""

    x: ir.Value
    linears: tuple[Linear, ...]
    model: ir.Model | None = field(repr=False)  # None: x was already there
    inputs: tuple[str, ...] = field(repr=False)
    outputs: tuple[str, ...] = field(repr=False)
    last_used: frozenset[str] = field(repr=False)  # carried values that no later segment asks for

    @property
    def width(self) -> int:
        return self.linears[0].shape[0]

    @property
    def window(self) -> Window | None:
        return self.linears[0].window

    @property
    def weights(self) -> tuple[Linear, ...]:
        """The first linear of each weight: two may multiply x by the same one."""
        firsts = {linear.name: linear for linear in reversed(self.linears)}
        return tuple(reversed(firsts.values()))

    @property
    def input(self) -> Input:
        """What tells it from all others."""
        return self.x, self.window


def segments(model: ir.Model, linears: Sequence[Linear]) -> list[Segment]:
    """Cut the graph at every input that linears read, in the order of the graph; windows are inputs of their own."""
    value_types.state(model)  # a segment's inputs need theirs
    groups: dict[Input, list[Linear]] = {}
    for linear in in_order(model, linears):
        if linear.is_fed:
            groups.setdefault((linear.x, linear.window), []).append(linear)
    plan = _Plan(model, [x for x, _ in groups], [tuple(group) for group in groups.values()])
    return [plan.segment(index) for index in range(len(groups))]


class _Plan:
    """For every value the segment in which it is made, and the last one that reads it."""

    def __init__(self, model: ir.Model, xs: list[ir.Value], groups: list[tuple[Linear, ...]]) -> None:
        self._model, self._xs, self._groups = model, xs, groups
        self._group_of: dict[ir.Node | None, int] = {
            linear.node: index for index, group in enumerate(groups) for linear in group
        }
        self._made: dict[ir.Value, int] = {}
        self._remade: set[ir.Value] = set()
        self._needed = self._ancestors(xs)
        for node in model.graph:
            if node in self._needed:
                self._place(node)
        self._last = self._last_reads()

    def segment(self, index: int) -> Segment:
        x, made = self._xs[index], self._made
        nodes = [node for node in self._needed if node not in self._group_of and self._at(node) == index]
        read = {value for node in nodes for value in self._reads(node)}
        inputs = {v for v in read if v in made and (made[v] < index or v.producer() in self._group_of)}
        outputs = {v for node in nodes for v in node.outputs if v is x or self._last.get(v, -1) > index}
        fed = self._remade_inputs([v for v in read if v not in inputs]) if outputs else set()
        kept = {str(v.name) for v, last in self._last.items() if last == index}
        return Segment(
            x,
            self._groups[index],
            self._extract(inputs | fed, outputs, index) if outputs else None,
            tuple(sorted(str(v.name) for v in inputs | fed)),
            tuple(sorted(str(v.name) for v in outputs)),
            frozenset(kept),
        )

    def _place(self, node: ir.Node) -> None:
        if node in self._group_of:
            level = self._group_of[node] + 1
        elif self._is_remade(node) and not any(output in self._xs for output in node.outputs):
            self._remade.update(node.outputs)
            return
        else:
            level = max((self._made.get(value, 0) for value in self._reads(node)), default=0)
        self._made.update(dict.fromkeys(node.outputs, level))

    def _is_remade(self, node: ir.Node) -> bool:
        return all(
            value in self._remade
            or (value.const_value is not None and value.const_value.nbytes < REMADE_BELOW_BYTES)
            or (_is_fed(value) and (node.op_type in ("Shape", "Size") or not _is_float(value)))
            for value in self._reads(node)
        )

    def _last_reads(self) -> dict[ir.Value, int]:
        """For each value that is not remade the last segment that reads it; a group reads its x at its own index."""
        last = {value: index for index, value in enumerate(self._xs)}
        for node in self._needed:
            if node in self._group_of or not any(output in self._made for output in node.outputs):
                continue
            for value in self._reads(node):
                if value in self._made:
                    last[value] = max(last.get(value, -1), self._at(node))
        return last

    def _at(self, node: ir.Node) -> int:
        """The segment of a plain node; -1 when it is remade wherever it is needed."""
        return self._made.get(node.outputs[0], -1)

    def _remade_inputs(self, values: list[ir.Value]) -> set[ir.Value]:
        """Graph inputs that a segment needs, itself or to make again what is remade."""
        seen: set[ir.Value] = set()
        stack = list(values)
        while stack:
            value = stack.pop()
            if value in seen or value in self._made:
                continue
            seen.add(value)
            producer = value.producer()
            stack += self._reads(producer) if producer else []
        return {value for value in seen if _is_fed(value)}

    def _ancestors(self, values: list[ir.Value]) -> dict[ir.Node, None]:
        """Nodes that the values depend on, in the order of the graph."""
        seen: set[ir.Node] = set()
        stack = [value.producer() for value in values]
        while stack:
            node = stack.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            stack += [value.producer() for value in self._reads(node)]
        return {node: None for node in self._model.graph if node in seen}

    def _reads(self, node: ir.Node) -> list[ir.Value]:
        """What a node reads, its subgraphs' captures included."""
        inner = [v for g in _subgraphs(node) for n in g for v in n.inputs if v is not None and v.graph is not g]
        return [value for value in (*node.inputs, *inner) if value is not None]

    def _extract(self, inputs: set[ir.Value], outputs: set[ir.Value], index: int) -> ir.Model:
        ordered_in = sorted(inputs, key=lambda value: str(value.name))
        ordered_out = sorted(outputs, key=lambda value: str(value.name))
        graph = ir.convenience.extract(self._model.graph, ordered_in, ordered_out)
        graph.name = f"segment {index}"
        for value in graph.inputs:
            if value.shape is not None:  # a traced symbol need not hold for what flows here
                value.shape = ir.Shape([size if isinstance(size, int) else None for size in value.shape])
        return ir.Model(graph, ir_version=self._model.ir_version, functions=list(self._model.functions.values()))


def _is_fed(value: ir.Value) -> bool:
    return value.is_graph_input() and value.const_value is None


def _is_float(value: ir.Value) -> bool:
    """Floating-point inputs are data: what is computed from them is carried, not made again."""
    return value.dtype is None or value.dtype.is_floating_point()


def _subgraphs(node: ir.Node) -> list[ir.Graph]:
    kinds = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    attributes = [one for one in node.attributes.values() if isinstance(one, ir.Attr) and one.type in kinds]
    return [g for one in attributes for g in ([one.as_graph()] if one.type == kinds[0] else one.as_graphs())]
