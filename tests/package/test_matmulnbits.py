"""What is packed is what an engine unpacks, and a packed graph computes what its dequantized weights would."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from compressor.graph.session import open_session
from compressor.package import matmulnbits
from compressor.package.matmulnbits import CELL_BITS, Packed, replace_linears, unpack
from compressor.quantize.flow.linears import find_linears
from compressor.quantize.qtensor import PER_CHANNEL, PER_TENSOR, Grid, QTensor
from compressor.quantize.rtn import RoundToNearest
from tests import graphs, laws
from tests.qtensors import SHAPES, assert_equal, packed_and_dequantized, random_tensor, three_linears

BITS, SCHEMES = (8, 4, 3, 2), ("absmax", "zero_point", "symmetric")
GROUP_SIZES = (PER_CHANNEL, PER_TENSOR, 16, 32, 64, 128, 256)
ROWS = (5, 16, 48, 172, 300)  # under a block; one; an odd number of them; short last ones


# --- bit for bit -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("group_size", "rows"), itertools.product(GROUP_SIZES, ROWS))
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("bits", BITS)
def test_unpack_is_the_inverse_of_pack(bits: int, scheme: str, group_size: int, rows: int) -> None:
    tensor = random_tensor(bits, scheme, group_size, rows)
    assert_equal(unpack(Packed(tensor), tensor), tensor)


@pytest.mark.parametrize(("group_size", "rows"), itertools.product(GROUP_SIZES, ROWS))
@pytest.mark.parametrize("bits", BITS)
def test_packed_as_the_operator_reads_it(bits: int, group_size: int, rows: int) -> None:
    """Cell by cell, as ONNX Runtime's ContribOperators.md has it, with a Python integer for each byte."""
    tensor = random_tensor(bits, "zero_point", group_size, rows)
    packed, cell = Packed(tensor), CELL_BITS[bits]
    columns, blocks, nbytes = packed.codes.shape
    assert (packed.cell_bits, packed.block_size * cell // 8) == (cell, nbytes)
    assert (blocks - 1) * packed.block_size < rows <= blocks * packed.block_size
    assert packed.scales.shape == (columns, blocks)
    assert packed.zeros.shape == (columns, -(-blocks * cell // 8))

    def cell_of(array: np.ndarray, index: int) -> int:
        return int(array[index * cell // 8]) >> (index * cell % 8) & (2**cell - 1)

    dequantized = tensor.dequantize()
    for column, row in itertools.product(range(columns), range(rows)):
        block = row // packed.block_size
        code = cell_of(packed.codes[column].reshape(-1), row)
        zero = cell_of(packed.zeros[column], block)
        assert (code - zero) * packed.scales[column, block] == dequantized[row, column]


def test_what_fills_the_last_block_weighs_nothing() -> None:
    packed = Packed(tensor := random_tensor(4, "zero_point", 16, 20))
    codes = matmulnbits._unpack_cells(packed.codes.reshape(7, -1), 4)
    assert (codes[:, 20:] == tensor.zero.T.numpy()[:, 1:]).all()


@pytest.mark.parametrize("bits", BITS)
def test_zero_points_in_the_middle_are_left_out(bits: int) -> None:
    assert Packed(random_tensor(bits, "absmax", 32, 48)).zeros is None
    assert Packed(random_tensor(bits, "zero_point", 32, 48)).zeros is not None


def test_codes_are_laid_out_when_they_are_read_and_not_held() -> None:
    asked: list[str] = []

    def load(name: str) -> QTensor:
        asked.append(name)
        return random_tensor(4, "absmax", 16, SHAPES[name][0], SHAPES[name][1])

    model = graphs.build(
        "(float[N,172] x) => (float[N,33] y) { y = MatMul(x, wc) }", opset=21, wc=graphs.normal(*SHAPES["wc"])
    )
    replace_linears(model, find_linears(model)[0], load, 1)
    codes = model.graph.initializers["wc.codes"].const_value
    assert (isinstance(codes, ir.LazyTensor), asked) == (True, ["wc"])
    np.testing.assert_array_equal(codes.numpy(), Packed(load("wc")).codes)
    assert asked == ["wc"] * 3


def test_a_group_that_spans_the_column_repeats_its_scale() -> None:
    """A block has at most 256 rows, and 512 returned zeros (microsoft/onnxruntime issue 28551)."""
    packed = Packed(random_tensor(4, "absmax", PER_CHANNEL, 300))
    assert (packed.block_size, packed.scales.shape) == (128, (7, 3))
    assert (packed.scales == packed.scales[:, :1]).all()


# --- in ONNX Runtime -------------------------------------------------------------------------------------------------

at_level_one = functools.partial(replace_linears, accuracy_level=1)


@pytest.mark.parametrize("mode", ["exact", "served"])
@pytest.mark.parametrize("group_size", GROUP_SIZES)
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("bits", BITS)
def test_a_packed_graph_is_the_graph_with_dequantized_weights(
    bits: int, scheme: str, group_size: int, mode: str
) -> None:
    packed, plain, _ = packed_and_dequantized(RoundToNearest(Grid(bits, scheme), group_size), at_level_one)
    for rows in (1, 6):  # decode and prefill have kernels of their own
        feeds = laws.feeds_for(plain, free_dimension=rows)
        (expected,) = laws.run(plain, feeds).values()
        (output,) = open_session(packed, mode).run(None, feeds)
        # Level 1 multiplies float32 by float32: the same products summed in another order, which through sums of 70, 45
        # and 172 moves a result by 1e-6 of the largest. Half a step of an 8-bit grid would move it by 1e-3.
        np.testing.assert_allclose(output, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_interface_and_neighbours_stay() -> None:
    packed, plain, _ = packed_and_dequantized(RoundToNearest(Grid(4, "absmax"), 16), at_level_one)
    assert laws.interface(packed) == laws.interface(plain)
    assert [node.op_type for node in packed.graph] == ["MatMulNBits", "Relu", "MatMulNBits", "Add", "MatMulNBits"]
    assert [node.outputs[0].name for node in packed.graph][:2] == ["a", "r"]
    assert packed.opset_imports == {"": 21, "com.microsoft": 1}


def test_an_attribute_says_how_to_multiply() -> None:
    for level in (0, 1, 4):
        model = three_linears()
        linears, _ = find_linears(model)
        tensors = {linear.name: random_tensor(3, "absmax", 32, *linear.shape) for linear in linears}
        replace_linears(model, linears, tensors.__getitem__, level)
        node = next(node for node in model.graph if node.op_type == "MatMulNBits")
        attributes = {name: attribute.as_int() for name, attribute in node.attributes.items()}
        assert attributes == {"K": 70, "N": 45, "bits": 4, "block_size": 32, "accuracy_level": level}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_weights_that_nobody_reads_are_gone(scheme: str) -> None:
    packed, _, sizes = packed_and_dequantized(RoundToNearest(Grid(4, scheme), 16), at_level_one)
    parts = ("codes", "scales", "zero_points") if scheme == "zero_point" else ("codes", "scales")
    assert set(packed.graph.initializers) == {"b", *(f"{name}.{part}" for name in SHAPES for part in parts)}
    stored = {name: tensor.const_value.nbytes for name, tensor in packed.graph.initializers.items()}
    assert sizes == {name: sum(stored[f"{name}.{part}"] for part in parts) for name in SHAPES}


def test_a_weight_that_somebody_reads_is_kept() -> None:
    """A tied embedding is no linear; a Transpose that feeds another node stays with its weight."""
    text = """(int64[N] ids) => (float[N,128] y, float[64,64] z) {
        e = Gather(table, ids)  t = Transpose(w)  h = MatMul(e, t)  z = Identity(w)
        head = Transpose(table)  y = MatMul(h, head)
    }"""
    model = graphs.build(text, opset=21, table=graphs.normal(128, 64), w=graphs.normal(64, 64))
    linears, refused = find_linears(model)
    assert (linears, set(refused)) == ([], {"table", "w"})
    replace_linears(model, linears, {}.__getitem__, 1)
    assert set(model.graph.initializers) == {"table", "w"}


def test_a_weight_that_is_a_graph_output_is_kept() -> None:
    model = graphs.build(
        "(float[N,32] x) => (float[N,8] y, float[32,8] w) { y = MatMul(x, w) }", w=graphs.normal(32, 8)
    )
    linears, _ = find_linears(model)
    tensor = RoundToNearest(Grid(8, "absmax"), 16).solve(linears[0].read())
    replace_linears(model, linears, {"w": tensor}.__getitem__, 1)
    np.testing.assert_array_equal(laws.run(model)["w"], graphs.normal(32, 8))


def test_a_branch_keeps_the_weight_that_it_captures() -> None:
    text = """(float[N,32] x, bool c) => (float[N,32] y) {
        h = MatMul(x, w)
        y = If (c) <then_branch = t () => (float[N,32] a) { a = MatMul(h, w) },
                    else_branch = e () => (float[N,32] b) { b = Neg(h) }>
    }"""
    model = graphs.build(text, opset=21, w=graphs.normal(32, 32))
    assert find_linears(model) == ([], {"w": "shared with MatMul"})


def test_a_product_that_is_a_graph_output_keeps_its_name() -> None:
    model = graphs.build(
        "(float[N,32] x) => (float[N,8] y) { y = Gemm(x, w, b) }", opset=21, w=graphs.normal(32, 8), b=graphs.normal(8)
    )
    linears, _ = find_linears(model)
    tensor = RoundToNearest(Grid(8, "absmax"), 16).solve(linears[0].read())
    replace_linears(model, linears, lambda _: tensor, 1)
    feeds = laws.feeds_for(model, free_dimension=3)
    (y,) = laws.run(model, feeds).values()
    np.testing.assert_allclose(y, feeds["x"] @ tensor.dequantize().numpy() + graphs.normal(8), rtol=1e-5, atol=1e-5)


def test_this_onnx_runtime_still_reads_every_cell() -> None:
    """Every code of a cell at every place of a block, against the codes themselves: x picks one row at a time."""
    for bits, group_size in itertools.product(BITS, (16, 32, 256)):
        tensor = random_tensor(bits, "zero_point", group_size, 2 * group_size, columns=3)
        model = graphs.build(
            "(float[N,K] x) => (float[N,3] y) { y = MatMul(x, w) }", opset=21, w=graphs.normal(2 * group_size, 3)
        )
        linears, _ = find_linears(model)
        replace_linears(model, linears, {"w": tensor}.__getitem__, 1)
        session: ort.InferenceSession = laws.open_session(model)
        (rows,) = session.run(None, {"x": np.eye(2 * group_size, dtype=np.float32)})
        # One product and zeros: only the order of (code - zero) * scale may differ, by two roundings of 255 steps.
        np.testing.assert_allclose(rows, tensor.dequantize(), rtol=0, atol=2**-22 * 255 * 2)
