from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from passes.emulation import emulated
from passes.half_precision import HalfPrecision
from passes.import_normalization import ImportNormalization
from tests import graphs, laws

BFLOAT16 = ir.DataType.BFLOAT16


def rounded(array: np.ndarray, narrow: type) -> np.ndarray:
    return array.astype(narrow).astype(np.float32)


@pytest.mark.parametrize("narrow", [ml_dtypes.bfloat16, np.float16])
def test_every_value_is_rounded(narrow: type) -> None:
    dtype = ir.DataType.from_numpy(np.dtype(narrow))
    text = "(float[3,4] x) => (float[3,2] y) { h = MatMul(x, w)  y = Relu(h) }"
    model = graphs.build(text, w=graphs.normal(4, 2))
    ImportNormalization()(model)
    HalfPrecision(dtype, lambda node: True)(model)
    feeds = laws.feeds_for(model)
    found = laws.run(emulated(model, dtype), feeds)["y"]
    product = rounded(rounded(feeds["x"], narrow) @ rounded(graphs.normal(4, 2), narrow), narrow)
    np.testing.assert_array_equal(found, np.maximum(product, 0))


def test_the_model_itself_keeps_its_types() -> None:
    model = graphs.build("(float[3,4] x) => (float[3,2] y) { y = MatMul(x, w) }", w=graphs.normal(4, 2))
    ImportNormalization()(model)
    HalfPrecision(BFLOAT16, lambda node: True)(model)
    before = laws.to_bytes(model)
    emulated(model, BFLOAT16)
    assert laws.to_bytes(model) == before
