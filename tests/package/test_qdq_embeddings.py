"""A table in codes and standard operators: the rows that are read are dequantized, and no others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from compressor.graph.session import open_session
from compressor.package.qdq_embeddings import replace_tables
from compressor.quantize import store
from compressor.quantize.embeddings import find_tables, round_tables
from compressor.quantize.qtensor import Grid
from tests import graphs, laws

WORDS, WIDTH = 37, 96
TIED = """(int64[N,T] input_ids) => (float[N,T,37] y, float[N,T,96] e) {
    e = Gather(table, input_ids)  r = Relu(e)  t = Transpose<perm = [1, 0]>(table)  y = MatMul(r, t)
}"""
TWICE = """(int64[N,T] input_ids, int64[N] one) => (float[N,T,96] y) {
    e = Gather(table, input_ids)  f = Gather(table, one)  u = Unsqueeze(f, axis)  y = Add(e, u)
}"""
IDS = {"input_ids": np.random.default_rng(0).integers(0, WORDS, (2, 5))}


def packed(text: str, grid: Grid, folder: Path, **more: np.ndarray) -> tuple[ir.Model, ir.Model, int]:
    """The graph with its table in codes, the float graph with the table that the codes stand for, and the bytes."""
    table = graphs.normal(WORDS, WIDTH)
    table[3] = np.abs(table[3])  # a row of one sign
    model, plain = (graphs.build(text, opset=21, table=table, **more) for _ in range(2))
    round_tables(find_tables(model), grid, folder)
    restored = store.Reader(folder).read("table").dequantize().T.contiguous().numpy()
    plain.graph.initializers["table"].const_value = ir.Tensor(restored, name="table")
    sizes = replace_tables(model, find_tables(model), store.Reader(folder).read)
    return model, plain, sizes["table"]


@pytest.mark.parametrize("scheme", ["absmax", "symmetric", "zero_point"])
@pytest.mark.parametrize("bits", [8, 4])
def test_equals_the_graph_with_the_table_dequantized(bits: int, scheme: str, tmp_path: Path) -> None:
    model, plain, nbytes = packed(TIED, Grid(bits, scheme, scale_search=True), tmp_path)
    expected, found = laws.run(plain, IDS), laws.run(model, IDS)
    np.testing.assert_array_equal(found["e"], expected["e"])  # (code - zero) * scale, in both
    close = 1e-5 * np.abs(expected["y"]).max()  # 96 products
    np.testing.assert_allclose(found["y"], expected["y"], rtol=0, atol=close)
    assert "table" not in model.graph.initializers
    # The codes twice, for rows and for the head; each group of 32 has two scales, two zero points of a byte.
    assert nbytes <= 2 * WORDS * (WIDTH * bits / 8 + 3 * (4 + 1))


@pytest.mark.parametrize("bits", [8, 4])
def test_the_served_graph_gives_the_same_rows(bits: int, tmp_path: Path) -> None:
    """ONNX Runtime's optimizer moves DequantizeLinear about."""
    model, plain, _ = packed(TIED, Grid(bits, "symmetric"), tmp_path)
    onnx.checker.check_model(laws.to_bytes(model), full_check=True)
    expected = laws.run(plain, IDS)["e"]
    (found,) = open_session(model, "served").run(["e"], IDS)
    np.testing.assert_array_equal(found, expected)


def test_every_reader_gathers_for_itself_from_one_table(tmp_path: Path) -> None:
    model, plain, _ = packed(TWICE, Grid(4, "symmetric"), tmp_path, axis=np.array([1]))
    feeds = IDS | {"one": np.array([4, 36])}
    laws.assert_same(laws.run(plain, feeds), laws.run(model, feeds))
    assert {op for op in (node.op_type for node in model.graph)} == {
        "Gather", "BitwiseAnd", "BitShift", "Concat", "DequantizeLinear", "Unsqueeze", "Add",
    }  # fmt: skip
    assert all(not node.domain for node in model.graph)
