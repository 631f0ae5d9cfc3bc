from __future__ import annotations

import pytest

from compressor.errors import RequestError
from compressor.providers import half
from tests import graphs

GRAPH = """(float[1,2,6,6] x) => (float[1,2,12,12] y, float[1,2,6,6] z) {
    c = Conv(x, w)  b = BatchNormalization(c, s, s, s, s)  y = Resize<mode = "nearest">(b, , scales)
    z = MaxPool<kernel_shape = [1,1]>(b)
}"""


def taken(target: str, dtype: str) -> list[str]:
    scales = graphs.np.array([1, 1, 2, 2], "float32")
    model = graphs.build(GRAPH, w=graphs.normal(2, 2, 1, 1), s=graphs.normal(2) ** 2, scales=scales)
    allows = half.kernels_in(dtype, target, model.opset_imports)
    return [node.op_type for node in model.graph if allows(node)]


@pytest.mark.parametrize(
    ("target", "dtype", "expected"),
    [
        ("cuda", "float16", ["Conv", "BatchNormalization", "MaxPool"]),
        ("cuda", "bfloat16", []),  # its convolution in bfloat16 begins with opset 22, and the others have none
        ("generic", "float16", ["Conv", "BatchNormalization", "MaxPool"]),
        ("generic", "bfloat16", ["BatchNormalization"]),  # the standard allows no more of them at opset 17
    ],
)
def test_what_a_target_computes_in_half_the_bytes(target: str, dtype: str, expected: list[str]) -> None:
    """A Resize whose scales are float32 is never among them; half_precision.py keeps it anyway."""
    assert [one for one in taken(target, dtype) if one != "Resize"] == expected


def test_tensorrt_is_judged_by_its_parser() -> None:
    assert {"Conv", "MaxPool"} <= set(taken("tensorrt", "float16"))


def test_the_cpu_has_no_products_in_it() -> None:
    with pytest.raises(RequestError, match=r"optimize\.dtype: float16: ONNX Runtime's CPU provider has no MatMul"):
        half.require("cpu", "float16")


@pytest.mark.parametrize("target", ["generic", "cuda", "tensorrt"])
def test_others_have(target: str) -> None:
    half.require(target, "bfloat16")
