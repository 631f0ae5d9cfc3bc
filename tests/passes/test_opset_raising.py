from __future__ import annotations

import pytest

from passes.opset_raising import OpsetRaising
from tests import graphs


@pytest.mark.parametrize(("before", "after"), [(20, 20), (21, 23), (22, 23), (23, 23), (24, 24)])
def test_only_opsets_of_the_same_meaning_are_raised(before: int, after: int) -> None:
    model = graphs.build("(float[N] x) => (float[N] y) { y = Neg(x) }", before)
    assert OpsetRaising()(model).modified == (before != after)
    assert model.opset_imports[""] == after
