from __future__ import annotations

import onnx_ir as ir
import pytest

from passes.bias_gelu_fusion import BiasGeluFusion
from tests import laws
from tests.transformer_graphs import GRAPHS


@pytest.mark.parametrize(("name", "operator"), [("bias_gelu", "BiasGelu"), ("bias_gelu_tanh", "FastGelu")])
def test_a_bias_goes_along(name: str, operator: str) -> None:
    assert laws.left_by(BiasGeluFusion(), GRAPHS[name]()) == [operator]


@pytest.mark.parametrize("name", ["bias_gelu_of_zeros", "bias_gelu_given"])
def test_no_constant_or_one_that_adds_nothing(name: str) -> None:
    assert laws.reasons(BiasGeluFusion(), GRAPHS[name]()) == []


def test_a_type_that_not_all_have_is_refused() -> None:
    model = GRAPHS["bias_gelu"]()
    for value in (*model.graph.inputs, *model.graph.outputs, *(node.outputs[0] for node in model.graph)):
        value.type = ir.TensorType(ir.DataType.BFLOAT16)
    assert laws.reasons(BiasGeluFusion(), model) == ["its type BFLOAT16 has no BiasGelu on every provider"]
