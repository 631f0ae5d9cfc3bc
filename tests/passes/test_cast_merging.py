from __future__ import annotations

import pytest

from passes.cast_merging import CastMerging
from tests import graphs, laws


def cast(source: str, between: int, last: int, gives: str) -> graphs.ir.Model:
    text = f"({source}[3] x) => ({gives}[3] y) {{ a = Cast<to = {between}>(x)  y = Cast<to = {last}>(a) }}"
    return graphs.build(text)


FLOAT, UINT8, INT64, BOOL, FLOAT16, DOUBLE = 1, 2, 7, 9, 10, 11


@pytest.mark.parametrize(
    ("source", "between", "last", "gives", "left"),
    [
        ("int32", INT64, FLOAT, "float", ["Cast"]),
        ("float", DOUBLE, FLOAT, "float", ["Identity"]),
        ("float16", FLOAT, INT64, "int64", ["Cast"]),
        ("bool", UINT8, FLOAT, "float", ["Cast"]),
    ],
)
def test_what_the_type_between_holds_goes_through(
    source: str, between: int, last: int, gives: str, left: list[str]
) -> None:
    assert laws.left_by(CastMerging(), cast(source, between, last, gives)) == left


@pytest.mark.parametrize(
    ("source", "between", "last", "gives"),
    [
        ("float", FLOAT16, FLOAT, "float"),
        ("int64", FLOAT, INT64, "int64"),
        ("int64", UINT8, INT64, "int64"),
        ("float", BOOL, FLOAT, "float"),
        ("uint8", 3, FLOAT, "float"),
    ],
)
def test_what_the_type_between_changes_stays(source: str, between: int, last: int, gives: str) -> None:
    (reason,) = laws.reasons(CastMerging(), cast(source, between, last, gives))
    assert "does not hold every" in reason
