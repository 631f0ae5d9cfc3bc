"""What is said of a shape before a run is the shape that the run gives, at every size."""

from __future__ import annotations

import math

import numpy as np
import pytest

from passes.import_normalization import ImportNormalization
from passes.shapes.sizes import GIVEN, Size
from passes.shapes.symbols import Symbols
from tests import graphs, laws

IMAGE = "float[N,4,H,W] x"
ROW = "float[N,6] x"
STEPS = "float[T,N,4] x"
WEIGHTS = {
    "w": graphs.normal(6, 4, 3, 3),
    "turned": graphs.normal(4, 6, 3, 3),
    "matrix": graphs.normal(6, 5),
    "gates": graphs.normal(2, 16, 4),
    "past": graphs.normal(2, 16, 4),
    "amounts": np.array([0, 0, 1, 2, 0, 0, 0, 3]),
    "two": np.array([1, 2]),
    "axes": np.array([-1, 2]),
    "four": np.array([1, 2, 1, 2]),
    "pieces": np.array([1, 3]),
    "repeats": np.array([1, 2, 1, 1]),
    "scales": np.array([1, 1, 2, 2], np.float32),
    "halves": np.array([1, 1, 2, 0.5], np.float32),
    "places": np.zeros((2, 4, 3, 3), np.int64),
}


# node, its inputs, which axes of the result are told before a run
@pytest.mark.parametrize(
    ("node", "given", "told"),
    [
        ("y = Conv(x, w)", IMAGE, "1111"),
        ("y = Conv<pads = [1,1,1,1], dilations = [2,1]>(x, w)", IMAGE, "1111"),
        ("y = Conv<strides = [2,1]>(x, w)", IMAGE, "1101"),
        ('y = Conv<auto_pad = "SAME_UPPER">(x, w)', IMAGE, "1100"),
        ("y = ConvTranspose(x, turned)", IMAGE, "1100"),
        ("y = MaxPool<kernel_shape = [3,2], pads = [1,0,1,0]>(x)", IMAGE, "1111"),
        ("y = AveragePool<kernel_shape = [3,2], strides = [1,2], ceil_mode = 1>(x)", IMAGE, "1110"),
        ("y = GlobalAveragePool(x)", IMAGE, "1111"),
        ("y = DepthToSpace<blocksize = 2>(x)", IMAGE, "1100"),
        ("y = Gemm(x, matrix)", ROW, "11"),
        ("y = Gemm<transA = 1>(x, x)", ROW, "11"),
        ("y = Pad(x, amounts)", IMAGE, "1111"),
        ('y = Pad(x, four, "", axes)', IMAGE, "1111"),
        ("y = Tile(x, repeats)", IMAGE, "1111"),
        ('y = Resize<mode = "nearest">(x, "", scales)', IMAGE, "1111"),
        ('y = Resize<mode = "nearest">(x, "", halves)', IMAGE, "1110"),
        ('s = Shape(x)  y = Resize<mode = "nearest">(x, "", "", s)', IMAGE, "1111"),
        ("z, y = Split<axis = 1>(x, pieces)", IMAGE, "1111"),
        ("y = GatherElements<axis = 3>(x, places)", IMAGE, "1111"),
        ('y = LSTM<hidden_size = 4, direction = "bidirectional">(x, gates, past)', STEPS, "1111"),
        ('z, y = LSTM<hidden_size = 4, direction = "bidirectional">(x, gates, past)', STEPS, "111"),
    ],
)
def test_what_is_said_is_what_a_run_gives(node: str, given: str, told: str) -> None:
    text = f"({given}) => (float[{','.join('ABCD'[: len(told)])}] y) {{ {node} }}"
    model = graphs.build(text, 18, **WEIGHTS)
    ImportNormalization()(model)
    shape = Symbols(model.graph).shape(model.graph.outputs[0])
    assert shape is not None
    for sizes in ({"N": 2, "H": 5, "W": 6, "T": 3}, {"N": 3, "H": 8, "W": 4, "T": 1}):
        dims = [sizes.get(str(size), size) for size in model.graph.inputs[0].shape or ()]
        dims = [int(str(size)) for size in dims]
        if "places" in node:
            dims = [max(2, dims[0]), 4, 5, 5]
        actual = laws.run(model, {"x": np.ones(dims, np.float32)})["y"].shape
        found = ["1" if _number(size, dims) is not None else "0" for size in shape]
        assert "".join(found) == told
        assert all(_number(size, dims) in (None, real) for size, real in zip(shape, actual, strict=True)), actual


def _number(size: Size, dims: list[int]) -> int | None:
    """The polynomial, where all that it names are axes of the input."""
    if not all(name == f"{GIVEN}x" for name, _ in size.symbols):
        return None
    return sum(factor * math.prod(dims[axis] for _, axis in symbols) for symbols, factor in size.terms)
