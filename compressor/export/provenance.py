"""A node's name says which module of the source it came from: `model.layers.7.mlp/Mul_1`.

torch.onnx writes the module's path into a node's metadata; the metadata goes (it holds paths of this machine), and
nodes and values are named by it. The name depends on the module and on nothing that came before it, so a
layer's nodes have the same names whatever the depth of the model.
"""

from __future__ import annotations

import ast
from collections import Counter

import onnx_ir as ir
from onnx_ir.traversal import RecursiveGraphIterator

SCOPES = "pkg.torch.onnx.name_scopes"
SEPARATOR = "/"


def name_nodes(model: ir.Model, wrapper: str = "") -> None:
    """Name each node `module/Operator_n`, and its outputs after it; interface and weights keep their names.

    wrapper: the attribute under which a traced wrapper holds the model; it is no part of a module's path.
    """
    counted: Counter[str] = Counter()
    for node in RecursiveGraphIterator(model.graph):
        stem = f"{_traced_module(node, wrapper)}{SEPARATOR}{node.op_type}".removeprefix(SEPARATOR)
        node.name = f"{stem}_{counted[stem]}"
        counted[stem] += 1
        for at, value in enumerate(node.outputs):
            if not value.is_graph_output():
                value.name = f"{node.name}.{at}" if at else node.name


def module_of(node: ir.Node) -> str:
    """The path of the module that a named node belongs to; empty for the model itself."""
    module, separator, _ = (node.name or "").rpartition(SEPARATOR)
    return module if separator else ""


def outputs_of(graph: ir.Graph, module: str) -> list[ir.Value]:
    """The values that a module hands on: made inside of it, read outside."""
    inside = [node for node in graph if is_within(module_of(node), module)]
    return [value for node in inside for value in node.outputs if _leaves(value, module)]


def is_within(module: str, outer: str) -> bool:
    return not outer or module == outer or module.startswith(f"{outer}.")


def _leaves(value: ir.Value, module: str) -> bool:
    return value.is_graph_output() or any(not is_within(module_of(use.node), module) for use in value.uses())


def _traced_module(node: ir.Node, wrapper: str) -> str:
    """The last module of `['', 'wrapped', 'wrapped.model', 'add_3']`; the last entry is the traced operation."""
    *modules, _ = ast.literal_eval(node.metadata_props.get(SCOPES) or "['']")
    path: str = modules[-1] if modules else ""
    return "" if path.startswith("_") else path.removeprefix(wrapper).removeprefix(".")
