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


LIKE = "(int64[3] x, float[N] like) => (float[3] y) { y = CastLike(x, like) }"


def test_a_known_type_is_named() -> None:
    model = graphs.build(LIKE)
    assert laws.left_by(CastMerging(), model) == ["Cast"]
    (node,) = CastMerging()(model).model.graph
    assert (node.op_type, node.attributes["to"].as_int(), len(node.inputs)) == ("Cast", FLOAT, 1)


def test_the_value_that_gave_the_type_goes_with_its_last_reader() -> None:
    text = "(int64[3] x) => (float[3] y) { y = CastLike(x, w) }"
    model = graphs.build(text, w=graphs.normal(64))
    assert laws.left_by(CastMerging(), model) == ["Cast"]
    assert not CastMerging()(model).model.graph.initializers


def test_a_type_that_nobody_knows_is_asked_for_at_run_time() -> None:
    model = graphs.build(LIKE)
    model.graph.inputs[1].type = None
    assert [node.op_type for node in CastMerging()(model).model.graph] == ["CastLike"]
