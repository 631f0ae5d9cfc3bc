"""Values and rows as text: columns line up, and a cell of several lines keeps its column."""

from __future__ import annotations

from compressor.report import tables


def test_columns_are_as_wide_as_they_are() -> None:
    rows = [{"name": "a", "bytes": 1234}, {"name": "longer", "bytes": 5}]
    assert tables.plain(rows) == ["name    bytes", "a       1,234", "longer  5"]
    assert tables.plain([]) == []


def test_rows_may_have_columns_that_others_lack() -> None:
    rows = [{"layer": "a", "error": 0.5}, {"layer": "b", "weight_error": 0.25, "flags": ["x"]}]
    assert tables.plain(rows) == [
        "layer  error  weight_error  flags",
        "a      0.5",
        "b             0.25          ['x']",
    ]


def test_a_cell_of_several_lines_takes_as_many() -> None:
    rows = [
        {"what": "operators", "value": tables.lines_of({"MatMul": 2, "Add": [1, None]})},
        {"what": "b", "value": "c"},
    ]
    assert tables.plain(rows) == ["what       value", "operators  MatMul: 2", "           Add: 1", "", "b          c"]


def test_the_longest_bar_has_its_width() -> None:
    row = {"part": "call", "batch": 1, "length": 4, "side": "artifact"}
    long, short = tables.bars([row | {"median_ms": 2.0}, row | {"median_ms": 0.001}])
    assert (long.count("#"), short.count("#")) == (tables.BAR_WIDTH, 1)
