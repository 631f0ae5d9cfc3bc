"""A number less an integer tensor, as torch.onnx can promote it: `1.0 - mask` becomes `-(mask - 1.0)`, the same number.

torch.onnx promotes the tensor of `rsub` and leaves the operands as they are: a subtraction from a number, which torch
has no operator for, so that it ends with an error about decomposition (torch 2.13).
"""

from __future__ import annotations

import torch


def subtract_from_numbers(program: torch.export.ExportedProgram) -> None:
    """Rewrite every such difference in place; names stay."""
    aten, graph = torch.ops.aten, program.graph_module.graph
    for node in list(graph.nodes):
        plain = node.target is aten.rsub.Scalar and len(node.args) == len(("tensor", "number"))  # and no factor
        if not plain or node.args[0].meta["val"].is_floating_point():
            continue
        with graph.inserting_before(node):
            difference = graph.call_function(aten.sub.Tensor, node.args)
        difference.meta = dict(node.meta)
        node.target, node.args = aten.neg.default, (difference,)
    program.graph_module.recompile()
