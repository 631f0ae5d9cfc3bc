"""MatMulBnb4: packed and unpacked bit for bit, and ONNX Runtime multiplies by the weights that we restore."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch

from compressor.package import matmulbnb4
from compressor.quantize.codebook import BOOKS, Codebook, CodebookTensor
from compressor.quantize.flow.linears import find_linears
from tests import graphs, laws

TEXT = """(float[N,T,ROWS] x) => (float[N,T,6] y) {
    t = Transpose<perm = [1, 0]>(w)  y = MatMul(x, t)
}"""


def solved(rows: int, book: str = "nf4", block_size: int = 64) -> CodebookTensor:
    return Codebook(book, block_size).solve(torch.from_numpy(graphs.normal(6, rows)).T)


def packed(rows: int, tensor: CodebookTensor) -> ir.Model:
    model = graphs.build(TEXT.replace("ROWS", str(rows)), opset=21, w=graphs.normal(6, rows))
    linears, _ = find_linears(model)
    nbytes = matmulbnb4.replace_linears(model, linears, {"w": tensor}.__getitem__)
    stored = [value.const_value.nbytes for value in model.graph.initializers.values()]
    assert nbytes == {"w": sum(stored)}
    return model


@pytest.mark.parametrize("rows", [64, 72, 33])
@pytest.mark.parametrize("book", BOOKS)
def test_packed_and_unpacked_bit_for_bit(book: str, rows: int) -> None:
    tensor = solved(rows, book)
    bytes_ = matmulbnb4.pack(tensor)
    assert (bytes_.dtype, bytes_.shape) == (np.uint8, (3 * rows,))
    np.testing.assert_array_equal(matmulbnb4.unpack(bytes_, tensor.shape), tensor.q)


def test_an_odd_number_of_codes_is_filled_up() -> None:
    tensor = Codebook("nf4", 16).solve(torch.from_numpy(graphs.normal(3, 3)))
    bytes_ = matmulbnb4.pack(tensor)
    assert len(bytes_) == 5
    np.testing.assert_array_equal(matmulbnb4.unpack(bytes_, (3, 3)), tensor.q)


@pytest.mark.parametrize(("rows", "block_size"), [(64, 16), (128, 64), (96, 32), (72, 64), (33, 16)])
@pytest.mark.parametrize("book", BOOKS)
def test_onnx_runtime_multiplies_by_our_weights(book: str, rows: int, block_size: int) -> None:
    tensor = solved(rows, book, block_size)
    model = packed(rows, tensor)
    x = np.random.default_rng(0).normal(size=(2, 3, rows)).astype(np.float32)
    found = laws.run(model, {"x": x})["y"]
    expected = x @ tensor.dequantize().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)  # float32 sums in another order


@pytest.mark.parametrize("book", BOOKS)
def test_a_graph_of_half_precision_loads(book: str) -> None:
    weight = graphs.normal(6, 64).astype(np.float16)
    model = graphs.build(TEXT.replace("ROWS", "64").replace("float[", "float16["), opset=21, w=weight)
    tensor = Codebook(book, 64).solve(torch.from_numpy(weight.astype(np.float32)).T)
    matmulbnb4.replace_linears(model, find_linears(model)[0], {"w": tensor}.__getitem__)
    x = graphs.normal(2, 3, 64).astype(np.float16)
    expected = x.astype(np.float32) @ tensor.dequantize().numpy()
    # What half precision rounds off; the rounded weights themselves are 1.8 and more away from the given.
    np.testing.assert_allclose(laws.run(model, {"x": x})["y"], expected, rtol=2**-10, atol=1e-2)


def test_the_interface_stays_and_the_weight_is_gone() -> None:
    model = packed(64, solved(64))
    original = graphs.build(TEXT.replace("ROWS", "64"), opset=21, w=graphs.normal(6, 64))
    assert laws.interface(model) == laws.interface(original)
    assert [node.op_type for node in model.graph] == ["MatMulBnb4"]
    assert set(model.graph.initializers) == {"w.codes", "w.absmax"}
