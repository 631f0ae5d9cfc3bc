"""Names of values: unique in the main graph and all graphs inside it, so that moving a value between them is safe."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import onnx_ir as ir

from passes.editing.nesting import every_graph


class Names:
    """The names that values of `root` and of the graphs inside it bear."""

    def __init__(self, root: ir.Graph) -> None:
        self._taken = {value.name for value in values(root)}
        self._last: dict[str, int] = {}

    def fresh(self, stem: str) -> str:
        """`stem`, or `stem_1`, `stem_2`, ...: the first that is free; from now on it is taken."""
        name = stem
        if not stem or stem in self._taken:
            numbers = itertools.count(self._last.get(stem, 0) + 1)
            number = next(one for one in numbers if f"{stem}_{one}" not in self._taken)
            self._last[stem], name = number, f"{stem}_{number}"
        self._taken.add(name)
        return name

    def forget(self, name: str) -> None:
        """Its value is gone, and the name is free."""
        self._taken.discard(name)


def values(root: ir.Graph) -> Iterator[ir.Value]:
    """Inputs, initializers and results of `root` and of every graph inside it; an input with a default comes twice."""
    for graph in every_graph(root):
        yield from graph.inputs
        yield from graph.initializers.values()
        for node in graph:
            yield from node.outputs


def make_names_unique(root: ir.Graph) -> bool:
    """Two branches may use one name for two values; ONNX allows it, and whoever moves a value is caught by it."""
    names, seen, modified = Names(root), set[str | None](), False
    for graph in every_graph(root):
        results = (value for node in graph for value in node.outputs)
        for value in dict.fromkeys((*graph.inputs, *graph.initializers.values(), *results)):
            if value.name == "":  # an output left out
                continue
            if value.name in seen:
                value.name, modified = names.fresh(str(value.name)), True
            seen.add(value.name)
    return modified


def name_nodes_apart(root: ir.Graph) -> None:
    """Two nodes of a graph under one name are a file that ONNX Runtime does not load; none is a name for many."""
    for graph in every_graph(root):
        taken, seen = {node.name for node in graph}, set[str]()
        for node in graph:
            if node.name and node.name in seen:
                candidates = (f"{node.name}_{number}" for number in itertools.count(1))
                node.name = next(one for one in candidates if one not in taken)
                taken.add(node.name)
            seen.add(node.name or "")
