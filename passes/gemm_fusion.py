"""A product of matrices and a summand are one Gemm.

m = MatMul(a, b); y = Add(m, c)                  ->     y = Gemm(a, b, c)
t = Transpose(a, perm = [1, 0]); y = Gemm(t, b)  ->     y = Gemm(a, b, transA = 1)
"""

from __future__ import annotations

from typing import ClassVar

import onnx_ir as ir

from passes.batchnorm_fusion import absorb
from passes.local import LocalPass, Scope, producer_of, require, sole_reader
from passes.shapes.sizes import ONE

FIRST_GEMM_THAT_BROADCASTS = 7
FLOATS = {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE}


class GemmFusion(LocalPass):
    """MatMul and Add of matrices to Gemm, and a Transpose into a Gemm.

    Both sides have two axes, and the summand widens to the product and not the other way: [M, N] beside a product of
    [1, N] would make the result larger. Floats alone: no provider has a Gemm of whole numbers for all.
    """

    operators: ClassVar[frozenset[str]] = frozenset({"Add", "Gemm"})

    def rewrite(self, node: ir.Node, scope: Scope) -> bool:
        return _take_transpose(node) if node.op_type == "Gemm" else _take_summand(node, scope)


def _take_summand(node: ir.Node, scope: Scope) -> bool:
    for place in (0, 1):
        product = producer_of(node.inputs[place], "MatMul")
        summand = node.inputs[1 - place]
        if product is not None and summand is not None and _is_of_matrices(product, scope):
            return _fuse(node, product, summand, scope)
    return False


def _is_of_matrices(product: ir.Node, scope: Scope) -> bool:
    shapes = [scope.symbols.shape(value) for value in product.inputs]
    return all(shape is not None and len(shape) == 2 for shape in shapes)


def _fuse(node: ir.Node, product: ir.Node, summand: ir.Value, scope: Scope) -> bool:
    result = product.outputs[0]
    if node.outputs[0].dtype not in FLOATS or scope.opset < FIRST_GEMM_THAT_BROADCASTS:
        return False
    require(product.graph is node.graph, "the MatMul stands in another graph, outside of this branch")
    require(sole_reader(result), f"the product '{result.name}' has other readers, or is an output")
    added, whole = scope.symbols.shape(summand), scope.symbols.shape(result)
    require(added is not None and whole is not None and len(added) <= 2, "the summand has more than two axes")
    assert added is not None and whole is not None  # noqa: PT018  held by the line above
    pairs = zip(added[::-1], whole[::-1], strict=False)
    require(all(mine in (ONE, size) for mine, size in pairs), "the summand may be larger than the product")
    producer = summand.producer()
    before = producer is None or producer.graph is not node.graph or _comes_before(producer, product)
    require(before, f"the summand '{summand.name}' is computed after the product")
    product.op_type = "Gemm"
    product.resize_inputs(3)
    product.replace_input_with(2, summand)
    absorb(node, product, scope)
    return True


def _comes_before(one: ir.Node, other: ir.Node) -> bool:
    assert one.graph is not None, "a node of the sweep stands in a graph"
    return next(node for node in one.graph if node is one or node is other) is one


def _take_transpose(gemm: ir.Node) -> bool:
    taken = False
    for place, name in ((0, "transA"), (1, "transB")):
        transpose = producer_of(gemm.inputs[place], "Transpose")
        if transpose is not None and _turns(transpose):
            flipped = 1 - gemm.attributes.get_int(name, 0)
            gemm.attributes[name] = ir.AttrInt64(name, flipped)
            gemm.replace_input_with(place, transpose.inputs[0])
            taken = True
    return taken


def _turns(transpose: ir.Node) -> bool:
    """Of a matrix; two Transposes that were merged may leave one that moves nothing."""
    return "perm" not in transpose.attributes or list(transpose.attributes["perm"].as_ints()) == [1, 0]
