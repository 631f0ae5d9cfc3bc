"""A product for which the rows are made one axis, and taken apart again behind it, is a product of more axes.

    f = Reshape(x, [-1, 64]); g = Gemm(f, W, b); y = Reshape(g, [N, S, 96])     x: [N, S, 64]
 -> m = MatMul(x, W); y = Add(m, b)

GPT-2's Conv1D is written so. The bias goes on into the norm, the activation or the attention behind it, and a weight
that is to be rounded stands in a product like all others.
"""

from __future__ import annotations

from typing import ClassVar

import onnx_ir as ir

from passes.formulas.matching import same
from passes.local import LocalPass, Scope, producer_of, require, sole_reader
from passes.shapes.sizes import ONE, Sizes

MATRIX = 2


class GemmUnflattening(LocalPass):
    """Reshape, Gemm or MatMul, Reshape to MatMul and Add.

    Every axis of x but the last comes back, seen in how it is computed or by its name; the weight is a matrix, neither
    transposes x nor scales anything, and the bias is one row. A weight that is turned (transB) is turned by a
    Transpose, which folds where it is a constant.
    """

    operators: ClassVar[frozenset[str]] = frozenset({"Reshape"})

    def rewrite(self, node: ir.Node, scope: Scope) -> bool:
        product = producer_of(node.inputs[0], "Gemm", "MatMul")
        flat = producer_of(product.inputs[0], "Reshape", "Flatten") if product is not None else None
        x = flat.inputs[0] if flat is not None else None
        if product is None or flat is None or x is None:
            return False
        before, matrix, after = (scope.symbols.shape(value) for value in (x, product.inputs[1], node.outputs[0]))
        if before is None or matrix is None or after is None or len(before) <= MATRIX or len(matrix) != MATRIX:
            return False
        _require_rows(flat, before, scope)
        rows, columns = matrix[::-1] if _is_turned(product) else matrix
        kept = before[:-1] == after[:-1] or _alike(x.shape, node.outputs[0].shape)
        require(
            kept and before[-1] == rows and after[-1] == columns,
            f"'{node.outputs[0].name}' does not have the axes of '{x.name}' again, or not seen to",
        )
        _require_plain(product, node, scope)
        _unflatten(node, product, x, scope)
        return True


def _alike(before: ir.Shape | None, after: ir.Shape | None) -> bool:
    """Equal numbers or names of all axes but the last, as the fusions of attention and norms compare them."""
    return before is not None and after is not None and same(tuple(before.dims[:-1]), tuple(after.dims[:-1]))


def _require_rows(flat: ir.Node, before: Sizes, scope: Scope) -> None:
    shape = scope.symbols.shape(flat.outputs[0])
    kept = shape is not None and len(shape) == MATRIX and shape[-1] == before[-1]
    require(kept, f"'{flat.outputs[0].name}' cuts the rows of '{flat.inputs[0].name if flat.inputs[0] else ''}'")


def _is_turned(product: ir.Node) -> bool:
    return product.attributes.get_int("transB", 0) == 1


def _require_plain(product: ir.Node, node: ir.Node, scope: Scope) -> None:
    result = product.outputs[0]
    require(product.graph is node.graph, f"the {product.op_type} stands in another graph, outside of this branch")
    require(sole_reader(result), f"the product '{result.name}' has other readers, or is an output")
    require(product.attributes.get_int("transA", 0) == 0, "the Gemm turns its rows")
    scales = {name: product.attributes.get_float(name, 1.0) for name in ("alpha", "beta")}
    require(set(scales.values()) == {1.0}, f"the Gemm scales: {scales}")
    bias = product.inputs[2] if len(product.inputs) > MATRIX else None
    shape = scope.symbols.shape(bias)
    row = bias is None or (shape is not None and all(size == ONE for size in shape[:-1]))
    require(row, f"the bias '{bias.name if bias else ''}' differs from row to row")


def _unflatten(node: ir.Node, product: ir.Node, x: ir.Value, scope: Scope) -> None:
    weight, bias = (*product.inputs[1:], None)[:2]
    y, place = node.outputs[0], product
    if _is_turned(product):
        weight = scope.insert(place, "Transpose", [weight], {"perm": [1, 0]}, like=weight)
    result = scope.insert(place, "MatMul", [x, weight], like=y, shape=y.shape)
    if bias is not None:
        result = scope.insert(place, "Add", [result, bias], like=y, shape=y.shape)
    scope.replace(node, result)
