"""A graph with two layers of each kind becomes the graph with all of them.

    before | layer 0 | layer 1 | after      ->      before | layer 0 | layer 1 | ... | layer N-1 | after

A layer reads the value that the layer before hands on, values made before the first layer, its own weights and its own
cache. Two traced layers of a kind are the same when they are node for node: operators, attributes, constants, and the
same reading of each of those four. Where one of this does not hold, nothing is replicated and the reason is said.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import onnx_ir as ir

from compressor.export import provenance

Renumber = Callable[[str, int], str]


class NotAlikeError(Exception):
    """Carries the reason why a layer cannot stand for another."""


@dataclass
class _Body:
    """The nodes of one traced layer, in order, the value it starts from and the value that it hands on."""

    nodes: list[ir.Node]
    begin: ir.Value | None
    end: ir.Value


def replicate(model: ir.Model, layers: str, stands_for: Sequence[int], cache: re.Pattern[str]) -> None:
    """Give the graph `len(stands_for)` layers, each a copy of the traced one that stands for it.

    layers: the path of the layers' modules, `model.layers`; cache: matches the number in a cache's name.
    Raises: NotAlikeError, before anything was changed, when the trace does not show that layers of a kind are alike.
    """
    graph = model.graph
    renumber = _renumbering(layers, cache)
    bodies = _bodies(graph, layers, max(stands_for) + 1)
    _check_kinds(bodies, stands_for, renumber)
    _check_caches(graph, bodies, renumber)
    _rebuild(graph, bodies, stands_for, renumber)


def _renumbering(layers: str, cache: re.Pattern[str]) -> Renumber:
    """`model.layers.0.mlp.weight`, 5 -> `model.layers.5.mlp.weight`; what belongs to no layer keeps its name."""
    module = re.compile(rf"(?<=^{re.escape(layers)}\.)\d+(?!\d)")

    def renumber(name: str, number: int) -> str:
        return cache.sub(str(number), module.sub(str(number), name))

    return renumber


def _bodies(graph: ir.Graph, layers: str, count: int) -> list[_Body]:
    """The layers of a traced graph: one block of nodes each, one after the other, one value handed on."""
    number = re.compile(rf"{re.escape(layers)}\.(\d+)(\.|$)")
    owner = [(node, number.match(provenance.module_of(node))) for node in graph]
    order = [int(found[1]) if found else None for _, found in owner]
    blocks = [at for before, at in pairwise([None, *order]) if at != before and at is not None]
    first, last = order.index(0), len(order) - order[::-1].index(count - 1)
    if blocks != list(range(count)) or None in order[first:last]:
        raise NotAlikeError("its layers do not follow each other, or share work")
    nodes = [[node for (node, _), at in zip(owner, order, strict=True) if at == layer] for layer in range(count)]
    ends = [_handed_on(body) for body in nodes]
    return [_Body(body, ends[at - 1] if at else None, ends[at]) for at, body in enumerate(nodes)]


def _handed_on(nodes: list[ir.Node]) -> ir.Value:
    own = set(nodes)
    read_outside = [
        value for node in nodes for value in node.outputs if any(use.node not in own for use in value.uses())
    ]
    if len(read_outside) != 1:
        raise NotAlikeError(f"a layer hands on {len(read_outside)} values")
    return read_outside[0]


def _check_kinds(bodies: list[_Body], stands_for: Sequence[int], renumber: Renumber) -> None:
    """A layer that will stand for several is the same as one traced before it."""
    for number in range(len(bodies)):
        alike = [at for at in range(number) if _alike(bodies, at, number, renumber)]
        if stands_for.count(number) > 1 and not alike:
            raise NotAlikeError(f"no traced layer is the same as layer {number}, which would be repeated")


def _alike(bodies: list[_Body], a: int, b: int, renumber: Renumber) -> bool:
    """Node for node the same; learns what the first layer starts from."""
    first, second = bodies[a].nodes, bodies[b].nodes
    paired: dict[ir.Value | None, ir.Value | None] = {}
    if len(first) != len(second):
        return False
    for one, other in zip(first, second, strict=True):
        if not _same_operation(one, other):
            return False
        for value, twin in zip(one.inputs, other.inputs, strict=True):
            if paired.get(value, value) is twin:
                continue
            begins = twin is bodies[b].begin and (bodies[a].begin in (None, value))
            if value in paired or value is None or twin is None or not (begins or _named_alike(value, twin, renumber)):
                return False
            bodies[a].begin = value if begins else bodies[a].begin
            paired[value] = twin
        paired |= dict(zip(one.outputs, other.outputs, strict=True))
    return paired.get(bodies[a].end) is bodies[b].end


def _same_operation(one: ir.Node, other: ir.Node) -> bool:
    return (
        (one.domain, one.op_type, len(one.inputs), len(one.outputs))
        == (other.domain, other.op_type, len(other.inputs), len(other.outputs))
        and {name: _plain(attribute) for name, attribute in one.attributes.items()}
        == {name: _plain(attribute) for name, attribute in other.attributes.items()}
        and [(v.dtype, v.shape) for v in one.outputs if not v.is_graph_output()]
        == [(v.dtype, v.shape) for v in other.outputs if not v.is_graph_output()]
    )


def _plain(attribute: ir.Attr) -> object:
    """An attribute's value, to compare; a graph is like no other."""
    if attribute.type == ir.AttributeType.TENSOR:
        tensor = attribute.as_tensor()
        return tensor.dtype, tuple(tensor.shape), tensor.tobytes()
    return object() if attribute.type == ir.AttributeType.GRAPH else attribute.value


def _named_alike(value: ir.Value, twin: ir.Value, renumber: Renumber) -> bool:
    """A weight or a cache, and the same of another layer."""
    outside = value.producer() is None and twin.producer() is None
    names = [renumber(one.name or "", 0) for one in (value, twin)]
    return outside and names[0] == names[1] and (value.dtype, value.shape) == (twin.dtype, twin.shape)


def _check_caches(graph: ir.Graph, bodies: list[_Body], renumber: Renumber) -> None:
    """Outside of the layers only the first cache may be read, for its length."""
    inside = {node for body in bodies for node in body.nodes}
    for value in graph.inputs:
        name = value.name or ""
        if renumber(name, -1) != name != renumber(name, 0) and any(use.node not in inside for use in value.uses()):
            raise NotAlikeError(f"'{name}' is read outside of its layer")


def _rebuild(graph: ir.Graph, bodies: list[_Body], stands_for: Sequence[int], renumber: Renumber) -> None:
    """Write all layers anew between what comes before and after."""
    known = {str(value.name): value for value in (*graph.inputs, *graph.initializers.values())}
    made: dict[str, ir.Value] = {}
    place, handed_on = bodies[0].nodes[0], bodies[0].begin
    for number, stands in enumerate(stands_for):
        body = bodies[stands]
        twins: dict[ir.Value | None, ir.Value | None] = {None: None}
        if body.begin is not None:
            twins[body.begin] = handed_on
        for node in body.nodes:
            twins |= {value: _own(value, number, known, renumber) for value in node.inputs if value not in twins}
            copied = _copy(node, [twins[value] for value in node.inputs], number, renumber)
            graph.insert_before(place, copied)
            twins |= dict(zip(node.outputs, copied.outputs, strict=True))
            made |= {str(value.name): value for value in copied.outputs}
        handed_on = twins[body.end]
    assert handed_on is not None  # every layer hands on a value
    bodies[-1].end.replace_all_uses_with(handed_on)
    _write_interface(graph, known, made, len(stands_for), renumber)
    graph.remove([node for body in bodies for node in body.nodes], safe=True)


def _own(value: ir.Value | None, number: int, known: dict[str, ir.Value], renumber: Renumber) -> ir.Value | None:
    """The same weight or cache of another layer; a value of no layer is everyone's."""
    if value is None or value.producer() is not None:
        return value
    name = renumber(str(value.name), number)
    return known.setdefault(name, value if name == value.name else _renamed(value, name))


def _renamed(value: ir.Value, name: str) -> ir.Value:
    return ir.Value(name=name, shape=value.shape, type=value.type, const_value=value.const_value)


def _copy(node: ir.Node, inputs: Sequence[ir.Value | None], number: int, renumber: Renumber) -> ir.Node:
    outputs = [
        ir.Value(name=renumber(str(value.name), number), shape=value.shape, type=value.type) for value in node.outputs
    ]
    name = renumber(str(node.name), number)
    return ir.Node(node.domain, node.op_type, inputs, node.attributes.values(), outputs=outputs, name=name)


def _write_interface(
    graph: ir.Graph, known: dict[str, ir.Value], made: Mapping[str, ir.Value], depth: int, renumber: Renumber
) -> None:
    """Inputs and outputs in the order that they had, the caches layer by layer; weights in order of their use."""
    inputs = [value for name in _expanded(graph.inputs, depth, renumber) if (value := known.get(name)) is not None]
    outputs = _expanded(graph.outputs, depth, renumber)
    kept = {str(value.name): value for value in graph.outputs}
    graph.inputs[:] = inputs
    graph.outputs[:] = [made.get(name) or kept[name] for name in outputs]
    weights = {name for name in known if known[name] not in set(inputs)}
    for name in weights - graph.initializers.keys():  # their order is settled later, by their use
        graph.initializers[name] = known[name]


def _expanded(values: Sequence[ir.Value], depth: int, renumber: Renumber) -> list[str]:
    """Names of an interface of `depth` layers: what belongs to no layer, then layer by layer."""
    names = [str(value.name) for value in values]
    of_a_layer = [name for name in names if renumber(name, 0) == name != renumber(name, -1)]
    of_none = [name for name in names if renumber(name, 0) == renumber(name, -1)]
    return [*of_none, *(renumber(name, number) for number in range(depth) for name in of_a_layer)]
