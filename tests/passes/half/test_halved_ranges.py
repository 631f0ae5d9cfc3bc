from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from passes.half.halved_ranges import fits, large
from tests import graphs

FLOAT16, BFLOAT16 = ir.DataType.FLOAT16, ir.DataType.BFLOAT16


@pytest.mark.parametrize(
    ("numbers", "dtype", "expected"),
    [
        ([1.0, 65504.0], FLOAT16, True),
        ([1.0, 65520.0], FLOAT16, False),
        ([1.0, 65520.0], BFLOAT16, True),
        ([np.finfo(np.float32).min], BFLOAT16, False),
        ([np.inf, -np.inf], FLOAT16, True),
        ([0.0], FLOAT16, True),
        ([1e-12], FLOAT16, False),
        ([1e-12, 1.0], FLOAT16, True),
        ([1e-12], BFLOAT16, True),
    ],
)
def test_what_fits(numbers: list[float], dtype: ir.DataType, expected: bool) -> None:
    count = len(numbers)
    text = f"(float[{count}] x) => (float[{count}] y) {{ y = Add(x, k) }}"
    model = graphs.build(text, k=np.array(numbers, np.float32))
    assert fits(model.graph.initializers["k"], dtype) is expected
    assert fits(model.graph.inputs[0], dtype), "what a run decides is the proof's to judge"


def test_what_comes_from_a_number_that_does_not_fit() -> None:
    text = """(float[3] x) => (float[3] y) {
        m = Mul(x, lowest)  s = Add(m, x)  p = Softmax(s)  y = Add(p, x)
    }"""
    model = graphs.build(text, lowest=np.finfo(np.float32).min)
    names = {value.name for value in large(model.graph, set(), FLOAT16)}
    assert names == {"lowest", "m", "s"}, "a Softmax gives numbers up to 1, whatever it reads"
    product = model.graph[0]
    assert {value.name for value in large(model.graph, {product}, FLOAT16)} == {"lowest"}
