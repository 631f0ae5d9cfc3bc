from __future__ import annotations

from passes.editing.naming import Names, make_names_unique, values
from tests import graphs, laws, trap_graphs


def test_fresh_names_count_on_and_are_taken() -> None:
    names = Names(graphs.build("(float[2] x) => (float[2] y) { x_1 = Neg(x)  y = Exp(x_1) }").graph)
    assert [names.fresh("x"), names.fresh("x"), names.fresh("z"), names.fresh("z")] == ["x_2", "x_3", "z", "z_1"]
    names.forget("z")
    assert names.fresh("z") == "z"


def test_no_name_is_a_name_too() -> None:
    """An output left out bears the empty one."""
    names = Names(graphs.build("(float[2] x) => (float[2] y) { y = Neg(x) }").graph)
    assert names.fresh("") == "_1"


def test_two_values_of_one_name_become_two_names() -> None:
    model = trap_graphs.branch_shares_a_name()
    expected = laws.run(model)
    assert make_names_unique(model.graph)
    names = [value.name for value in dict.fromkeys(values(model.graph))]
    assert len(names) == len(set(names))
    laws.assert_same(expected, laws.run(model))
    assert not make_names_unique(model.graph)
