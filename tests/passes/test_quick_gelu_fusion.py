from __future__ import annotations

import numpy as np
import pytest

from passes.quick_gelu_fusion import QuickGeluFusion
from tests.transformer_graphs import GRAPHS


@pytest.mark.parametrize(("name", "alpha"), [("quick_gelu", np.float32(1.702)), ("silu", 1.0)])
def test_a_value_times_its_sigmoid_is_one_operator(name: str, alpha: float) -> None:
    model = GRAPHS[name]()
    assert QuickGeluFusion()(model).modified
    (node,) = model.graph
    assert (node.op_type, node.attributes["alpha"].as_float()) == ("QuickGelu", alpha)


def test_the_sigmoid_of_another_stays() -> None:
    assert not QuickGeluFusion()(GRAPHS["quick_gelu_of_another"]()).modified
