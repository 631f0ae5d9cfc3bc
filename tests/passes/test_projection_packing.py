"""Equal bit for bit, one weight at a time, and the reason where two products stay two."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from compressor.graph.session import load_model, open_session, save_model
from passes.dead_node_elimination import DeadNodeElimination
from passes.projection_packing import ProjectionPacking
from tests import laws

WIDTH, BLOCK = 64, 32
ATTENTION = (64, 32, 32)  # columns of queries, keys and values


def projections(
    sizes: Sequence[int] = ATTENTION,
    level: int = 4,
    zeros: Sequence[bool] = (),
    bias: bool = False,
    blocks: Sequence[int] = (),
    shared: bool = False,
) -> ir.Model:
    """x [rows, 64] -> as many products of 4 bits as there are sizes, each an output."""
    rng = np.random.default_rng(0)
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["rows", WIDTH]))
    constants: list[ir.Value] = []

    def weight(name: str, array: np.ndarray) -> ir.Value:
        constants.append(ir.Value(name=name, const_value=ir.tensor(array, name=name)))
        return constants[-1]

    nodes = []
    for at, columns in enumerate(sizes):
        block = blocks[at] if blocks else BLOCK
        count = WIDTH // block
        inputs: list[ir.Value | None] = [
            x,
            constants[0]
            if shared and at
            else weight(f"w{at}", rng.integers(0, 256, (columns, count, block // 2), np.uint8)),
            weight(f"s{at}", rng.random((columns, count), np.float32)),
        ]
        has_zeros = bool(zeros and zeros[at])
        if has_zeros or bias:
            inputs.append(
                weight(f"z{at}", rng.integers(0, 256, (columns, -(-count // 2)), np.uint8)) if has_zeros else None
            )
        if bias:
            inputs += [None, weight(f"b{at}", rng.random(columns, np.float32))]
        attributes: dict[str, Any] = {"K": WIDTH, "N": columns, "bits": 4, "block_size": block, "accuracy_level": level}
        node = ir.node("MatMulNBits", inputs, attributes, domain="com.microsoft")
        (y,) = node.outputs
        y.name, y.type, y.shape = f"y{at}", ir.TensorType(ir.DataType.FLOAT), ir.Shape(["rows", columns])
        nodes.append(node)
    outputs = [node.outputs[0] for node in nodes]
    graph = ir.Graph(
        [x],
        outputs,
        nodes=nodes,
        initializers=constants,
        opset_imports={"": 21, "com.microsoft": 1},
        name="projections",
    )
    return ir.Model(graph, ir_version=10)


@pytest.mark.parametrize("mode", ["exact", "served"])
@pytest.mark.parametrize("zeros", [(), (True, True, True)], ids=["middle", "zero points"])
@pytest.mark.parametrize("bias", [False, True], ids=["", "bias"])
def test_outputs_are_equal_bit_for_bit(mode: str, zeros: tuple[bool, ...], bias: bool) -> None:
    model = projections(zeros=zeros, bias=bias)
    packed = model.clone()
    assert ProjectionPacking()(packed).modified
    assert sorted(node.op_type for node in packed.graph) == ["MatMulNBits", "Split"]
    for rows in (1, 3, 40):  # kernels of their own
        feeds = laws.feeds_for(model, rows)
        pairs = zip(
            open_session(model, mode).run(None, feeds), open_session(packed, mode).run(None, feeds), strict=True
        )
        assert all(np.array_equal(one, other) for one, other in pairs)


def test_it_keeps_the_law_of_passes() -> None:
    laws.check_pass(ProjectionPacking(), projections())


def test_the_old_weights_are_gone_and_the_bytes_are_as_many() -> None:
    def nbytes(model: ir.Model) -> int:
        weights = [one.const_value for one in model.graph.initializers.values()]
        return sum(one.nbytes for one in weights if one is not None and one.dtype != ir.DataType.INT64)

    model = projections()
    before = nbytes(model)
    ProjectionPacking()(model)
    assert (nbytes(model), {name for name in model.graph.initializers if name.startswith(("w", "s"))}) == (
        before,
        set(),
    )


def test_weights_stay_in_their_file_until_they_are_written(tmp_path: Path) -> None:
    save_model(projections(), tmp_path / "model.onnx")
    files = []
    for name in ("one", "other"):
        model = load_model(tmp_path / "model.onnx")
        ProjectionPacking()(model)
        joined = [one.const_value for key, one in model.graph.initializers.items() if ".packed." in key]
        assert joined
        assert all(isinstance(one, ir.LazyTensor) and not one.cache for one in joined)
        save_model(model, tmp_path / f"{name}.onnx")
        files.append((tmp_path / f"{name}.onnx.data").read_bytes())
    assert files[0] == files[1]


def test_a_part_of_a_group_is_no_group() -> None:
    """Two readers of one value that another operator reads as well: nothing about the other changes."""
    model = projections()
    x = model.graph.inputs[0]
    other = ir.node("Relu", [x])
    other.outputs[0].name, other.outputs[0].type, other.outputs[0].shape = "r", x.type, x.shape
    model.graph.append(other)
    model.graph.outputs.append(other.outputs[0])
    laws.check_pass(ProjectionPacking(), model)
    DeadNodeElimination()(model)
    assert [node.op_type for node in model.graph].count("Relu") == 1


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        ({"level": 1}, "accuracy_level is 1: its input is not rounded, and nothing is saved"),
        ({"sizes": (128, 128)}, "a Split would copy 256 columns to save the rounding of 64"),
        ({"zeros": (True, False, True)}, "'y1' has other inputs: zero points, order or bias"),
        ({"blocks": (32, 16, 32)}, "'y1' reads the same input with another block_size"),
        ({"sizes": (32, 32), "shared": True}, "others read 'w0'"),
    ],
)
def test_two_products_stay_two(made: dict[str, Any], reason: str) -> None:
    assert laws.reasons(ProjectionPacking(), projections(**made)) == [reason]


def test_weights_that_a_caller_may_set_stay() -> None:
    model = projections()
    model.graph.inputs.append(model.graph.initializers["w1"])
    assert laws.reasons(ProjectionPacking(), model) == ["'w1' is computed, or the caller may set it"]


def test_one_product_is_no_candidate() -> None:
    assert laws.reasons(ProjectionPacking(), projections((64,))) == []
