"""What a DequantizeLinear gives is what the QTensor gives, bit for bit, in standard operators alone."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from compressor.graph.session import open_session
from compressor.package import qdq
from compressor.quantize.flow.linears import find_linears
from compressor.quantize.qtensor import PER_CHANNEL, PER_TENSOR, Grid
from compressor.quantize.rtn import RoundToNearest
from tests import graphs, laws
from tests.qtensors import packed_and_dequantized, random_tensor

BITS, SCHEMES = (8, 4, 3, 2), ("absmax", "zero_point", "symmetric")
GROUP_SIZES = (PER_CHANNEL, PER_TENSOR, 16, 32, 64, 128, 256)
ROWS = (5, 300)  # under a block; many of them and a short last one


@pytest.mark.parametrize(("group_size", "rows"), itertools.product(GROUP_SIZES, ROWS))
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("bits", BITS)
def test_onnx_runtime_dequantizes_what_the_qtensor_does(bits: int, scheme: str, group_size: int, rows: int) -> None:
    """The whole weight by a product with the identity: no sum but one product and zeros, so not a bit may differ."""
    tensor = random_tensor(bits, scheme, group_size, rows)
    model = graphs.build("(float[N,K] x) => (float[N,7] y) { y = MatMul(x, w) }", opset=21, w=graphs.normal(rows, 7))
    qdq.replace_linears(model, find_linears(model)[0], {"w": tensor}.__getitem__)
    onnx.checker.check_model(laws.to_bytes(model), full_check=True)
    (weight,) = laws.run(model, {"x": np.eye(rows, dtype=np.float32)}).values()
    expected = tensor.dequantize().numpy()
    if group_size == PER_TENSOR:  # scale and zero point of the first column hold for all
        zero = tensor.zero[0, 0].numpy() if scheme == "zero_point" else 2 ** (bits - 1)
        expected = (tensor.q.numpy().astype(np.float32) - zero) * tensor.scale[0, 0].numpy()
    np.testing.assert_array_equal(weight, expected)


@pytest.mark.parametrize("mode", ["exact", "served"])
@pytest.mark.parametrize("group_size", GROUP_SIZES)
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("bits", BITS)
def test_a_graph_with_qdq_is_the_graph_with_dequantized_weights(
    bits: int, scheme: str, group_size: int, mode: str
) -> None:
    solver = RoundToNearest(Grid(bits, scheme), group_size)
    packed, plain, _ = packed_and_dequantized(solver, qdq.replace_linears)
    for rows in (1, 6):
        feeds = laws.feeds_for(plain, free_dimension=rows)
        (expected,) = laws.run(plain, feeds).values()
        (output,) = open_session(packed, mode).run(None, feeds)
        # The same products summed in another order; half a step of an 8-bit grid would move it by 1e-3.
        np.testing.assert_allclose(output, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_only_standard_operators_and_the_same_interface() -> None:
    packed, plain, sizes = packed_and_dequantized(RoundToNearest(Grid(4, "absmax"), 16), qdq.replace_linears)
    assert laws.interface(packed) == laws.interface(plain)
    assert {node.domain for node in packed.graph} == {""}
    assert packed.opset_imports == {"": 21}
    pairs = [node.op_type for node in packed.graph if node.op_type != "DequantizeLinear"]
    assert pairs == ["MatMul", "Relu", "MatMul", "Add", "MatMul"]
    stored = {name: value.const_value.nbytes for name, value in packed.graph.initializers.items()}
    assert sizes == {name: stored[f"{name}.codes"] + stored[f"{name}.scales"] for name in ("wa", "wb", "wc")}


@pytest.mark.parametrize(("bits", "scheme", "dtype"), [
    (8, "absmax", ir.DataType.INT8), (8, "zero_point", ir.DataType.UINT8),
    (4, "absmax", ir.DataType.INT4), (2, "zero_point", ir.DataType.UINT4),
])  # fmt: skip
def test_symmetric_codes_are_signed_and_carry_no_zero_point(bits: int, scheme: str, dtype: ir.DataType) -> None:
    packed, _, _ = packed_and_dequantized(RoundToNearest(Grid(bits, scheme), 32), qdq.replace_linears)
    assert packed.graph.initializers["wa.codes"].dtype == dtype
    assert ("wa.zero_points" in packed.graph.initializers) == (scheme == "zero_point")


def test_four_bits_take_half_a_byte_on_disk() -> None:
    packed, _, _ = packed_and_dequantized(RoundToNearest(Grid(4, "absmax"), 16), qdq.replace_linears)
    codes = packed.graph.initializers["wc.codes"].const_value
    assert codes is not None
    assert len(codes.tobytes()) == codes.nbytes == 172 * 33 / 2


def test_served_it_becomes_onnx_runtimes_own_product(tmp_path: Path) -> None:
    """What makes it fast: no Transpose and no Gemm between DequantizeLinear and MatMul."""
    import onnxruntime as ort

    text = "(float[N,64] x) => (float[N,48] y) { t = Transpose(wa)  a = MatMul(x, t)  y = Gemm<transB = 1>(a, wb, b) }"
    weights = {"wa": graphs.normal(32, 64), "wb": graphs.normal(48, 32)}
    packed = graphs.build(text, opset=21, **weights, b=graphs.normal(48))
    solver = RoundToNearest(Grid(4, "absmax"), 32)
    tensors = {name: solver.solve(torch.from_numpy(weight.T.copy())) for name, weight in weights.items()}
    qdq.replace_linears(packed, find_linears(packed)[0], tensors.__getitem__)
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "served.onnx")
    ort.InferenceSession(laws.to_bytes(packed), options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node]
    assert kinds.count("MatMulNBits") == 2
    assert "DequantizeLinear" not in kinds
