"""In every package that we make the codes of a weight are as many as its numbers, and no byte is of another kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from compressor.graph import kinds
from compressor.graph.kinds import CODES, FLOATS, GRID, OUTLIERS, WHOLE_NUMBERS
from compressor.graph.session import load_model, save_model
from compressor.package import embeddings, matmulbnb4, matmulinteger, matmulnbits, qdq, qdq_embeddings
from compressor.progress import identity
from compressor.quantize import store
from compressor.quantize.codebook import Codebook
from compressor.quantize.embeddings import find_tables, round_tables
from compressor.quantize.flow.linears import find_linears
from compressor.quantize.llm_int8 import LlmInt8
from compressor.quantize.qtensor import PER_CHANNEL, Grid
from compressor.quantize.rewriters import static_qdq
from compressor.quantize.rtn import RoundToNearest
from compressor.recipe.methods import StaticQdq
from tests import graphs
from tests.qtensors import three_linears

Packed = tuple[ir.Model, Mapping[str, int]]  # a graph, and the bytes that its packager says it put there

LINEARS = ((70, 45), (45, 172), (172, 33))  # in, out; the second has a bias
NUMBERS, BIAS = sum(rows * columns for rows, columns in LINEARS), 172
CONVOLUTION = "(float[N,8,9,9] x) => (float[N,5,7,7] y) { y = Conv(x, w, b) }"
KERNEL = {"w": graphs.normal(5, 8, 3, 3), "b": graphs.normal(5)}
TABLE = graphs.normal(37, 64)
GATHERED = "(int64[N,T] ids) => (float[N,T,64] e) { e = Gather(table, ids) }"
TIED = """(int64[N,T] ids) => (float[N,T,37] y, float[N,T,64] f) {
    e = Gather(table, ids)  f = Gather(table, ids)  t = Transpose<perm = [1, 0]>(table)  y = MatMul(e, t)
}"""


def rounded(bits: int, scheme: str, group_size: int) -> Packed:
    model, solver = three_linears(), RoundToNearest(Grid(bits, scheme), group_size)
    linears, _ = find_linears(model)
    tensors = {one.name: solver.solve(one.read()) for one in linears}
    return model, matmulnbits.replace_linears(model, linears, tensors.__getitem__, accuracy_level=0)


def standard(bits: int, scheme: str, group_size: int, convolution: bool = False) -> Packed:
    model = graphs.build(CONVOLUTION, opset=21, **KERNEL) if convolution else three_linears()
    solver, (linears, _) = RoundToNearest(Grid(bits, scheme), group_size), find_linears(model, convolutions=True)
    tensors = {one.name: solver.solve(one.read()) for one in linears}
    return model, qdq.replace_linears(model, linears, tensors.__getitem__)


def from_a_book() -> Packed:
    model = three_linears()
    linears, _ = find_linears(model)
    tensors = {one.name: Codebook("nf4", 64).solve(one.read()) for one in linears}
    return model, matmulbnb4.replace_linears(model, linears, tensors.__getitem__)


def integers(outliers: tuple[int, ...] | float | None) -> Packed:
    model = three_linears()
    linears, _ = find_linears(model)
    fixed = outliers if isinstance(outliers, tuple) else ()
    tensors = {one.name: LlmInt8(6.0).solve(one.read(), fixed) for one in linears}
    chosen = dict.fromkeys(tensors, outliers)
    return model, matmulinteger.replace_linears(model, linears, tensors.__getitem__, chosen, "cpu")


def table(text: str, bits: int, folder: Path, *, any_engine: bool) -> Packed:
    model = graphs.build(text, opset=21, table=TABLE)
    found = find_tables(model)
    round_tables(found, Grid(bits, "zero_point"), folder)
    if any_engine:
        return model, qdq_embeddings.replace_tables(model, found, store.Reader(folder).read)
    return model, embeddings.replace_tables(model, found, store.Reader(folder).read, accuracy_level=0)


def read_back(model: ir.Model, folder: Path) -> tuple[Counter[str], Counter[str]]:
    """Bytes and numbers of each kind, of a graph that was written to a file."""
    save_model(model, folder / "model.onnx")
    sizes, numbers = Counter[str](), Counter[str]()
    for one in kinds.constants(load_model(folder / "model.onnx")):
        sizes[one.kind] += one.tensor.nbytes
        numbers[one.kind] += one.entries
    return sizes, numbers


@pytest.mark.parametrize(
    "packed",
    [
        lambda: rounded(4, "zero_point", 32),
        lambda: rounded(3, "absmax", PER_CHANNEL),
        lambda: standard(4, "zero_point", 16),
        lambda: standard(8, "symmetric", PER_CHANNEL),
        from_a_book,
        lambda: integers(None),
        lambda: integers(()),
    ],
    ids=["MatMulNBits", "3 bits", "blocks", "channels", "nf4", "dynamic", "LLM.int8()"],
)
def test_products_are_codes_and_a_grid_and_their_bias_is_float(packed: Callable[[], Packed], tmp_path: Path) -> None:
    model, nbytes = packed()
    sizes, numbers = read_back(model, tmp_path)
    assert numbers[CODES] == NUMBERS
    assert sizes[CODES] + sizes[GRID] == pytest.approx(sum(nbytes.values()), abs=1)  # LLM.int8()'s middle: one byte
    assert sizes[FLOATS] - 4 * BIAS in range(4 * 8)  # and what a row of activations is scaled by: a few numbers


def test_outlier_rows_are_told_from_other_floats(tmp_path: Path) -> None:
    outliers = (3, 17)
    _, numbers = read_back(integers(outliers)[0], tmp_path)
    assert numbers[CODES] == NUMBERS
    assert numbers[OUTLIERS] == len(outliers) * sum(columns for _, columns in LINEARS)


@pytest.mark.parametrize("group_size", [16, PER_CHANNEL])
def test_a_kernel_is_codes_and_a_grid(group_size: int, tmp_path: Path) -> None:
    model, nbytes = standard(4, "absmax", group_size, convolution=True)
    sizes, numbers = read_back(model, tmp_path)
    assert (numbers[CODES], numbers[FLOATS]) == (KERNEL["w"].size, KERNEL["b"].size)
    assert sizes[CODES] + sizes[GRID] == sum(nbytes.values())


@pytest.mark.parametrize("any_engine", [True, False])
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("text", [GATHERED, TIED], ids=["rows", "rows and head"])
def test_a_table_is_codes_and_a_grid(text: str, bits: int, any_engine: bool, tmp_path: Path) -> None:
    model, nbytes = table(text, bits, tmp_path, any_engine=any_engine)
    sizes, numbers = read_back(model, tmp_path)
    copies = 2 if any_engine and text == TIED else 1  # the head has codes of its own in standard operators
    assert (numbers[CODES], numbers[FLOATS]) == (copies * TABLE.size, 0)
    assert sizes[CODES] + sizes[GRID] == sum(nbytes.values())


def test_pairs_around_operators_leave_no_float_but_the_bias(tmp_path: Path) -> None:
    model = graphs.build(CONVOLUTION, opset=21, **KERNEL)
    static_qdq.quantize(model, StaticQdq(), "cpu", (), [{"x": graphs.normal(2, 8, 9, 9)}], identity)
    sizes, numbers = read_back(model, tmp_path)
    assert (numbers[CODES], numbers[FLOATS], sizes[WHOLE_NUMBERS]) == (KERNEL["w"].size, KERNEL["b"].size, 0)


def test_a_float_that_is_gathered_or_scales_a_product_of_floats_stays_one() -> None:
    model = graphs.build(
        """(float[N,4] x) => (float[N,3] y) {
            p = Gather<axis = -1>(x, at)  m = MatMul(p, w)  s = Mul(m, g)  y = Add(s, b)
        }""",
        at=np.array([0, 2]),
        w=graphs.normal(2, 3),
        g=graphs.normal(3),
        b=graphs.normal(3),
    )
    assert [one.kind for one in kinds.constants(model)] == [WHOLE_NUMBERS, FLOATS, FLOATS, FLOATS]


def test_a_byte_that_many_ways_lead_from_is_counted_at_once() -> None:
    """Two for each Concat: to walk them one by one would take 2^40 steps."""
    chain = "\n".join(f"v{at + 1} = Concat<axis = 0>(v{at}, v{at})" for at in range(40))
    made = graphs.build(
        f"(float x) => (float[N] y) {{ {chain} y = DequantizeLinear(v40, scale) }}",
        v0=np.ones(3, np.int8),
        scale=np.float32(2),
    )
    assert {one.tensor.name: (one.kind, one.entries) for one in kinds.constants(made)} == {
        "v0": (CODES, 3 * 2**40),
        "scale": (GRID, 1),
    }
