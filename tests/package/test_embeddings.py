"""A table in codes: rows and heads read what was stored, once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch

from compressor.errors import RecipeError
from compressor.package import embeddings as packaged
from compressor.quantize import store
from compressor.quantize.embeddings import find_tables, misfits, round_tables
from compressor.quantize.qtensor import Grid
from compressor.recipe import recipe
from tests import graphs, laws

WORDS, WIDTH = 37, 96
TIED = """(int64[N,T] input_ids) => (float[N,T,37] y, float[N,T,96] e) {
    e = Gather(table, input_ids)  r = Relu(e)  t = Transpose<perm = [1, 0]>(table)  y = MatMul(r, t)
}"""
ALONE = "(int64[N,T] input_ids) => (float[N,T,96] e) { e = Gather(table, input_ids) }"


def packed(text: str, grid: Grid, folder: Path) -> tuple[ir.Model, ir.Model, int]:
    """The graph with its table in codes, the float graph with the table that the codes stand for, and the bytes."""
    model, plain = (graphs.build(text, opset=21, table=graphs.normal(WORDS, WIDTH)) for _ in range(2))
    (row,) = round_tables(find_tables(model), grid, folder)
    assert (row["layer"], row["bits"], row["group_size"]) == ("table", grid.bits, 32)
    table = store.Reader(folder).read("table").dequantize().T.contiguous().numpy()
    plain.graph.initializers["table"].const_value = ir.Tensor(table, name="table")
    sizes = packaged.replace_tables(model, find_tables(model), store.Reader(folder).read, accuracy_level=1)
    return model, plain, sizes["table"]


@pytest.mark.parametrize("scheme", ["absmax", "symmetric", "zero_point"])
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("text", [TIED, ALONE])
def test_equals_the_graph_with_the_table_dequantized(text: str, bits: int, scheme: str, tmp_path: Path) -> None:
    model, plain, nbytes = packed(text, Grid(bits, scheme, scale_search=True), tmp_path)
    ids = {"input_ids": np.random.default_rng(0).integers(0, WORDS, (2, 5))}
    expected, found = laws.run(plain, ids), laws.run(model, ids)
    np.testing.assert_array_equal(found["e"], expected["e"])  # (code - zero) * scale, in both
    if "y" in expected:  # sums of 96 products in another order
        np.testing.assert_allclose(found["y"], expected["y"], rtol=0, atol=1e-5 * np.abs(expected["y"]).max())
    assert "table" not in model.graph.initializers
    assert nbytes <= WORDS * WIDTH * bits / 8 * 1.01 + WORDS * 3 * (4 + 1)  # codes once, and scales of 3 groups


def test_a_table_that_others_read_is_left_alone() -> None:
    text = (
        "(int64[N] input_ids) => (float[N,96] y) { e = Gather(table, input_ids)  s = ReduceSum(table)  y = Add(e, s) }"
    )
    model = graphs.build(text, opset=21, table=graphs.normal(WORDS, WIDTH))
    assert find_tables(model) == []


def test_a_table_without_a_group_stays_and_the_others_do_not(tmp_path: Path) -> None:
    """T5 gathers from its words and from a bias for each of a few heads."""
    text = """(int64[N] input_ids) => (float[N,96] e, float[N,30] b) {
        e = Gather(table, input_ids)  b = Gather(narrow, input_ids)
    }"""
    model = graphs.build(text, opset=21, table=graphs.normal(WORDS, WIDTH), narrow=graphs.normal(WORDS, 30))
    assert [row["layer"] for row in round_tables(find_tables(model), Grid(4, "absmax"), tmp_path)] == ["table"]
    assert misfits(model) == {"narrow": "30 wide, no multiple of 16"}


def test_tables_are_searched_by_squared_error(tmp_path: Path) -> None:
    lost = {}
    for search in (False, True):
        _, plain, _ = packed(ALONE, Grid(4, "symmetric", scale_search=search), tmp_path)
        table = plain.graph.initializers["table"].const_value
        assert table is not None
        lost[search] = float(torch.from_numpy(table.numpy() - graphs.normal(WORDS, WIDTH)).square().sum())
    assert lost[True] < lost[False]


@pytest.mark.parametrize("quantize", [{"dynamic": {}}, {"llm_int8": {}}])
def test_only_beside_packed_weights(quantize: dict[str, object]) -> None:
    with pytest.raises(RecipeError, match=r"quantize\.embeddings: tables are packed beside the weights of rtn or gptq"):
        recipe.build({"model": "x", "target": "generic", "quantize": {**quantize, "embeddings": 8}})
