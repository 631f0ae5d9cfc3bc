"""A product with a stack of matrices becomes a product with each, so that each gets codes and scales of its own.

    y = MatMul(x [1 or E, tokens, in], W [E, in, out])     ->     y = Concat(MatMul(x_e, W_e) for e = 0 .. E-1)

A mixture of experts holds its matrices this way. Each W_e is named after W and lies where it lay; nothing is copied.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from compressor.graph import value_types
from compressor.graph.editing import add_constant, drop_unread, take_over
from compressor.quantize.flow.linears import STACK, stacked_weight

FIRST_OPSET_WITH_SPLIT_INPUT = 13


def unstack(model: ir.Model) -> None:
    """Take every stack apart whose product has known sizes, in place; what is left, `find_linears` refuses."""
    old = model.opset_imports.get("", 0) < FIRST_OPSET_WITH_SPLIT_INPUT
    if old or not any(stacked_weight(node) for node in model.graph):
        return
    value_types.infer(model)  # how many matrices an input is for
    matrices: dict[ir.Value, list[ir.Value]] = {}
    for node in list(model.graph):
        found = stacked_weight(node)
        if found is None:
            continue
        weight, transposed = found
        assert weight.const_value is not None  # held by stacked_weight
        if weight not in matrices:
            matrices[weight] = [add_constant(model.graph, one) for one in _matrices(weight)]
        parts = _parts(model.graph, node, len(matrices[weight]))
        if parts is not None:
            _replace(model.graph, node, parts, matrices[weight], transposed=transposed)
    for weight, made in matrices.items():
        for value in (weight, *made):
            drop_unread(model.graph, value)


def _parts(graph: ir.Graph, node: ir.Node, count: int) -> list[ir.Value] | None:
    """The input of each product, [1, tokens, in]: all the same, or one each; None where its sizes are not known."""
    x = node.inputs[0]
    assert x is not None  # held by stacked_weight
    first = x.shape[0] if x.shape is not None and len(x.shape) == STACK else None
    if first == 1:
        return [x] * count
    if first != count:
        return None
    stem = node.outputs[0].name
    sizes = add_constant(graph, ir.tensor([1] * count, ir.DataType.INT64, name=f"{stem}.sizes"))
    split = ir.node("Split", [x, sizes], {"axis": 0}, num_outputs=count, name=f"{stem}.split")
    graph.insert_before(node, split)
    for at, part in enumerate(split.outputs):
        part.name, part.type, part.shape = f"{stem}.input.{at}", x.type, _alone(x)
    return list(split.outputs)


def _replace(
    graph: ir.Graph, node: ir.Node, parts: list[ir.Value], matrices: list[ir.Value], *, transposed: bool
) -> None:
    y = node.outputs[0]
    products = []
    for at, (x, matrix) in enumerate(zip(parts, matrices, strict=True)):
        read = matrix
        if transposed:
            turned = ir.node("Transpose", [matrix], {"perm": [1, 0]}, name=f"{y.name}.turned.{at}")
            graph.insert_before(node, turned)
            read = turned.outputs[0]
            read.name, read.type = f"{y.name}.turned.{at}", matrix.type
        product = ir.node("MatMul", [x, read], name=f"{y.name}.{at}")
        graph.insert_before(node, product)
        products.append(product.outputs[0])
        products[-1].name, products[-1].type, products[-1].shape = f"{y.name}.{at}", y.type, _alone(y)
    joined = ir.node("Concat", products, {"axis": 0}, name=f"{y.name}.joined")
    before = node.inputs[1]
    take_over(graph, node, [joined])
    drop_unread(graph, before)


def _alone(value: ir.Value) -> ir.Shape | None:
    """The shape of one of a stack."""
    return None if value.shape is None else ir.Shape([1, *value.shape[1:]])


def _matrices(weight: ir.Value) -> Iterator[ir.TensorProtocol]:
    """Each matrix of a stack, as a part of the file that holds it or of the array."""
    stack = weight.const_value
    assert stack is not None  # held by stacked_weight
    count, *shape = stack.shape.numpy()
    for at in range(count):
        name = f"{weight.name}.{at}"
        if isinstance(stack, ir.ExternalTensor):
            nbytes = stack.nbytes // count
            place = (stack.offset or 0) + at * nbytes
            yield ir.ExternalTensor(
                stack.location, place, nbytes, stack.dtype, shape=ir.Shape(shape), name=name, base_dir=stack.base_dir
            )
        else:
            yield ir.Tensor(stack.numpy()[at], dtype=stack.dtype, shape=ir.Shape(shape), name=name)
