"""Projections that read one input with activations in int8 are one product: the input is rounded to int8 once.

   q = MatMulNBits(x, Wq); k = MatMulNBits(x, Wk); v = MatMulNBits(x, Wv)
-> q, k, v = Split(MatMulNBits(x, [Wq | Wk | Wv]), [Nq, Nk, Nv])

Each column is computed by the same kernel from the same numbers, so outputs are equal bit for bit. What is saved is the
rounding of K entries for each product but one; what is paid are the columns that the Split copies. Measured with ONNX
Runtime 1.31 on one thread, products and Split against the products alone, 1 to 256 rows: at accuracy_level 4 packed
queries, keys and values take 0.87 to 0.97 of the time where no more columns are copied than entries saved, 1.00 at
twice as many (MOST_COPIED), and up to 1.07 from four times on, where a gate and its up projection are. In float32 there
is nothing to save: 0.96 to 1.11 (queries, keys, values), 0.99 to 1.09 (gate and up), and up to 1.10 for a plain MatMul.

https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md, com.microsoft.MatMulNBits
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from passes.editing.building import Builder
from passes.editing.constants import constant
from passes.editing.replacing import hand_over
from passes.fusion import CONTRIB, Fusion
from passes.local import require

INT8_ACTIVATIONS = 4  # accuracy_level
MOST_COPIED = 2  # columns of the Split for each entry of the input that is not rounded again
COLUMNS, GROUP_INDEX = "N", 4  # what may differ between the products; an input that names rows, not columns
PARTS = {1: "codes", 2: "scales", 3: "zero_points", 5: "bias"}  # inputs whose first axis is that of the columns


class ProjectionPacking(Fusion[list[ir.Node]]):
    """Replace all MatMulNBits that read one value by one, where K, bits, blocks and inputs agree.

    Weights are constants that nobody else reads, or they would be stored twice; they are put together when the file is
    written, one at a time.
    """

    operator, domain, first_opset = "MatMulNBits", CONTRIB, 13  # a Split takes its sizes as an input since

    def find(self, node: ir.Node) -> list[ir.Node] | None:
        """Found at the first of them, in the order of the graph."""
        if not _is_product(node) or node.inputs[0] is None:
            return None
        readers = {one for one in node.inputs[0].consumers() if _is_product(one) and one.inputs[0] is node.inputs[0]}
        alike = [one for one in node.graph or () if one in readers] if len(readers) > 1 else []
        return alike if len(alike) > 1 and alike[0] is node else None

    def fuse(self, node: ir.Node, found: list[ir.Node], build: Builder) -> None:
        _require_alike(found)
        _require_gain(found)
        columns = [_number(one, COLUMNS) for one in found]
        inputs = [node.inputs[0], *(_joined(found, index, build) for index in range(1, len(node.inputs)))]
        attributes = {**node.attributes, COLUMNS: sum(columns)}
        (product,) = build.node("MatMulNBits", inputs, attributes, domain=CONTRIB)
        pieces = build.node("Split", [product, build.integers(columns)], {"axis": -1}, outputs=len(found))
        for one, piece in zip(found, pieces, strict=True):
            hand_over(one.outputs[0], piece, build.names)


def _is_product(node: ir.Node) -> bool:
    return node.op_type == "MatMulNBits" and node.domain == CONTRIB


def _number(node: ir.Node, name: str) -> int:
    found = node.attributes.get(name)
    return found.as_int() if found is not None else 0


def _require_alike(found: Sequence[ir.Node]) -> None:
    """One kernel for all columns, and weights that can go. Raises: Refused."""
    first, *others = found
    for one in others:
        differing = [
            name for name in {**first.attributes, **one.attributes} if _number(first, name) != _number(one, name)
        ]
        differing = sorted(set(differing) - {COLUMNS})
        require(not differing, f"'{one.outputs[0].name}' reads the same input with another {', '.join(differing)}")
        require(_given(one) == _given(first), f"'{one.outputs[0].name}' has other inputs: zero points, order or bias")
    require(GROUP_INDEX not in _given(first), "its rows are reordered, each product in its own way")
    require(not _number(first, "weight_prepacked"), "its weights are laid out for one kernel already")
    for one in found:
        for index in _given(one)[1:]:
            value = one.inputs[index]
            assert value is not None  # held by _given
            require(constant(value) is not None, f"'{value.name}' is computed, or the caller may set it")
            require(len(value.uses()) == 1 and not value.is_graph_output(), f"others read '{value.name}'")


def _require_gain(found: Sequence[ir.Node]) -> None:
    level = _number(found[0], "accuracy_level")
    require(level == INT8_ACTIVATIONS, f"accuracy_level is {level}: its input is not rounded, and nothing is saved")
    copied, saved = sum(_number(one, COLUMNS) for one in found), (len(found) - 1) * _number(found[0], "K")
    require(copied <= MOST_COPIED * saved, f"a Split would copy {copied} columns to save the rounding of {saved}")


def _given(node: ir.Node) -> list[int]:
    """Places of the inputs that are there."""
    return [index for index, value in enumerate(node.inputs) if value is not None]


def _joined(found: Sequence[ir.Node], index: int, build: Builder) -> ir.Value | None:
    """The same input of all products as one constant, put together whenever it is read."""
    tensors = [tensor for one in found if (tensor := constant(one.inputs[index])) is not None]
    if not tensors:
        return None
    shapes = [one.shape.numpy() for one in tensors]
    rows = sum(shape[0] for shape in shapes)
    together = ir.LazyTensor(
        lambda: ir.Tensor(np.concatenate([one.numpy() for one in tensors])),
        dtype=tensors[0].dtype,
        shape=ir.Shape((rows, *shapes[0][1:])),
    )
    return build.initializer(together, f"{found[0].outputs[0].name}.packed.{PARTS[index]}")
