"""QTensors and a graph of linears that every package format is tried on."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir
import torch

from compressor.quantize.flow.linears import find_linears
from compressor.quantize.qtensor import QTensor, rows_of_group
from compressor.quantize.rtn import RoundToNearest
from tests import graphs

# Sizes that are no multiples of a block, in the three ways that a linear is stored; the Gemm has a bias.
TEXT = """(float[N,70] x) => (float[N,33] y) {
    t = Transpose(wa)  a = MatMul(x, t)  r = Relu(a)  h = Gemm<transB = 1>(r, wb, b)  y = MatMul(h, wc)
}"""
SHAPES = {"wa": (45, 70), "wb": (172, 45), "wc": (172, 33)}

Load = Callable[[str], QTensor]
Replace = Callable[[ir.Model, list, Load], Mapping[str, int]]


def random_tensor(bits: int, scheme: str, group_size: int, rows: int, columns: int = 7) -> QTensor:
    """Every code and zero point that the grid has, whatever weights would lead to them."""
    rng = np.random.default_rng(rows)
    groups = len(rows_of_group(rows, group_size))
    zero = (
        rng.integers(0, 2**bits, (groups, columns))
        if scheme == "zero_point"
        else np.full((groups, columns), 2 ** (bits - 1))
    )
    return QTensor(
        torch.from_numpy(rng.integers(0, 2**bits, (rows, columns)).astype(np.uint8)),
        torch.from_numpy(rng.uniform(0.5, 2, (groups, columns)).astype(np.float32)),
        torch.from_numpy(zero.astype(np.uint8)),
        bits,
        group_size,
    )


def assert_equal(one: QTensor, other: QTensor) -> None:
    assert (one.bits, one.group_size) == (other.bits, other.group_size)
    for part in ("q", "scale", "zero"):
        assert torch.equal(getattr(one, part), getattr(other, part)), part


def three_linears() -> ir.Model:
    weights = {name: graphs.normal(*shape) for name, shape in SHAPES.items()}
    return graphs.build(TEXT, opset=21, **weights, b=graphs.normal(172))


def packed_and_dequantized(solver: RoundToNearest, replace: Replace) -> tuple[ir.Model, ir.Model, Mapping[str, int]]:
    """The graph with its linears replaced, the same with their dequantized weights, and the bytes of the former."""
    packed, plain = three_linears(), three_linears()
    linears, _ = find_linears(packed)
    tensors = {linear.name: solver.solve(linear.read()) for linear in linears}
    for linear in find_linears(plain)[0]:
        weight = tensors[linear.name].dequantize()
        linear.weight.const_value = ir.tensor((weight.T if linear.transposed else weight).contiguous().numpy())
    return packed, plain, replace(packed, linears, tensors.__getitem__)
