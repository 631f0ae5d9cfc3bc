"""Graphs that broke an optimizer somewhere: onnxscript, OnnxSlim, onnxsim, onnxoptimizer or ONNX Runtime itself.

Those of convolutions with BatchNormalization, Dropout, Expand and quantized weights stand in graphs.py.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import ml_dtypes
import numpy as np
import onnx_ir as ir

from tests.graphs import build, normal


def conv_times(factor: np.ndarray) -> ir.Model:
    """4 channels and a width of 4: a vector of 4 belongs to the width."""
    text = "(float[N,2,6,6] x) => (float[N,4,4,4] y) { c = Conv(x, w, b)  y = Mul(c, factor) }"
    return build(text, w=normal(4, 2, 3, 3), b=normal(4), factor=factor)


def limits(first: str, second: str) -> ir.Model:
    text = f"(float[3,5] x) => (float[3,5] y) {{ a = {first}  y = {second} }}"
    numbers = {"minus_half": -0.5, "minus_one": -1, "zero": 0, "one": 1, "two": 2, "six": 6}
    return build(text, **{name: np.float32(number) for name, number in numbers.items()})


def pad(reader: str, amounts: list[int], value: float = 0.0, mode: str = "constant") -> ir.Model:
    text = (
        f"""(float[1,2,6,6] x) => (float[1,2,A,B] y) {{ p = Pad<mode = "{mode}">(x, amounts, value)  y = {reader} }}"""
    )
    return build(text, amounts=np.array(amounts), value=np.float32(value), w=normal(2, 2, 3, 3))


SIDES = [0, 0, 1, 1, 0, 0, 1, 1]
MAX_POOL = "MaxPool<kernel_shape = [3,3]>(p)"
AVERAGE_POOL = "AveragePool<kernel_shape = [3,3]>(p)"


def branch_shares_a_name() -> ir.Model:
    """A branch's initializer bears the name of one outside; each means its own."""
    return build(
        """(float[2] x) => (float[2] y, float[2] z) {
            y = If (yes) <then_branch = t () => (float[2] a) <float[2] k = {1, 2}> { a = Add(x, k) },
                          else_branch = e () => (float[2] b) { b = Neg(x) }>
            z = Mul(x, k)
        }""",
        yes=np.array(True),
        k=np.array([10, 20], np.float32),
    )


def reshape_copies_a_dimension() -> ir.Model:
    """The 0 of the second Reshape copies 6 of the first one's result, and not 2 of x."""
    text = "(float[2,3,4] x) => (float[6,4] y) { a = Reshape(x, first)  y = Reshape(a, second) }"
    return build(text, first=np.array([6, 4]), second=np.array([0, -1]))


def two_limits_of_one_value() -> ir.Model:
    """New constants must not take each other's names."""
    return build(
        """(float[3] x) => (float[3] y, float[3] z) {
            a = Min(x, six)  y = Max(a, one)  b = Min(x, two)  z = Max(b, minus)
        }""",
        **{name: np.float32(number) for name, number in {"six": 6, "one": 1, "two": 2, "minus": -1}.items()},
    )


def almost_one() -> ir.Model:
    return build("(float[3] x) => (float[3] y) { y = Mul(x, k) }", k=np.float32(1.000001))


def ones_with_an_axis_more() -> ir.Model:
    return build("(float[3] x) => (float[1,3] y) { y = Mul(x, k) }", k=np.ones((1, 1), np.float32))


def stale_batch() -> ir.Model:
    """A file whose notes between input and output still speak of the batch it was traced with.

    Not in the catalog: a pass alone believes the notes, which ImportNormalization has written anew before it.
    """
    text = "(float[N,6] x) => (float[N,6] y) { a = Neg(x)  s = Shape(a)  r = Reshape(a, s)  y = Exp(r) }"
    model = build(text)
    model.graph[0].outputs[0].shape = ir.Shape([1, 6])
    return model


def same_name_for_two_sizes() -> ir.Model:
    """Both inputs call their axis N, and a caller may pass [1] and [3] all the same."""
    text = "(float[N] x, float[N] z) => (float[M] y) { s = Shape(z)  e = Expand(x, s)  y = Neg(e) }"
    return build(text)


def small_float_weights() -> ir.Model:
    """bfloat16 and int4 in one file; neither is a type of numpy's own."""
    return build(
        """(float[N,4] x) => (float[N,2] y) {
            w = Cast<to = 1>(half)  d = DequantizeLinear<axis = 1>(q, step)  s = Add(w, d)  y = MatMul(x, s)
        }""",
        opset=21,
        half=normal(4, 2).astype(ml_dtypes.bfloat16),
        q=np.array([[1, -2], [3, -4], [5, -6], [7, -8]]).astype(ml_dtypes.int4),
        step=np.array([0.5, 0.25], np.float32),
    )


def two_draws() -> ir.Model:
    """Two unseeded draws are two, however alike."""
    text = "(float[64] p) => (float[64] y) { a = Bernoulli(p)  b = Bernoulli(p)  y = Sub(a, b) }"
    return build(text)


def gemm_of_a_row() -> ir.Model:
    """[1, N] + [M, N] is larger than the product."""
    text = "(float[1,3] x) => (float[4,2] y) { m = MatMul(x, w)  y = Add(m, c) }"
    return build(text, w=normal(3, 2), c=normal(4, 2))


def cast_through(between: int) -> ir.Model:
    return build(f"(float[3] x) => (float[3] y) {{ a = Cast<to = {int(between)}>(x)  y = Cast<to = 1>(a) }}")


def transposes(perm: str, middle: str = "Relu(a)") -> ir.Model:
    return build(
        f"""(float[2,3,4] x) => (float[A,B,C] y) {{
            a = Transpose<perm = [2,0,1]>(x)  b = {middle}  y = Transpose<perm = {perm}>(b)
        }}"""
    )


def slices(*bounds: tuple[int, int], opset: int = 17) -> ir.Model:
    """Pieces of an axis of 6, each under an operator of its own; ends may be negative or past the end."""
    pieces = " ".join(f"p{i} = Slice(x, s{i}, e{i}, axis)  y{i} = Neg(p{i})" for i in range(len(bounds)))
    outputs = ", ".join(f"float[2,D{i}] y{i}" for i in range(len(bounds)))
    numbers = {
        f"{side}{i}": np.array([at]) for i, pair in enumerate(bounds) for side, at in zip("se", pair, strict=True)
    }
    return build(f"(float[2,6] x) => ({outputs}) {{ {pieces} }}", opset, axis=np.array([-1]), **numbers)


GRAPHS: dict[str, Callable[[], ir.Model]] = {
    "almost_one": almost_one,
    "branch_shares_a_name": branch_shares_a_name,
    "cast_through_double": partial(cast_through, ir.DataType.DOUBLE),
    "cast_through_half": partial(cast_through, ir.DataType.FLOAT16),
    "clip_disjoint": partial(limits, "Clip(x, minus_one, zero)", "Clip(a, one, two)"),
    "clip_then_relu": partial(limits, "Clip(x, minus_one, six)", "Relu(a)"),
    "conv_times_channels": partial(conv_times, normal(4, 1, 1)),
    "conv_times_scalar": partial(conv_times, np.float32(3)),
    "conv_times_width": partial(conv_times, normal(4)),
    "gemm_of_a_row": gemm_of_a_row,
    "negative_clip_then_relu": partial(limits, 'Clip(x, "", minus_half)', "Relu(a)"),
    "ones_with_an_axis_more": ones_with_an_axis_more,
    "pad_average": partial(pad, AVERAGE_POOL, SIDES),
    "pad_conv": partial(pad, "Conv<pads = [0,1,0,1]>(p, w)", SIDES),
    "pad_crops": partial(pad, "Conv(p, w)", [0, 0, -1, 1, 0, 0, 0, 1]),
    "pad_max_with_lowest": partial(pad, MAX_POOL, SIDES, -np.inf),
    "pad_max_with_zero": partial(pad, MAX_POOL, SIDES),
    "pad_reflects": partial(pad, "Conv(p, w)", SIDES, mode="reflect"),
    "reshape_copies_a_dimension": reshape_copies_a_dimension,
    "same_name_for_two_sizes": same_name_for_two_sizes,
    "small_float_weights": small_float_weights,
    "transposes_cancel": partial(transposes, "[1,2,0]"),
    "transposes_merge": partial(transposes, "[0,2,1]", "Exp(a)"),
    "slices_overlap": partial(slices, (0, 4), (3, 6)),
    "slices_tile": partial(slices, (-4, 3), (0, 2), (3, 2**62)),
    "slices_tile_opset_11": partial(slices, (0, 3), (3, 6), opset=11),
    "slices_with_a_gap": partial(slices, (0, 2), (3, 6)),
    "two_draws": two_draws,
    "two_limits_of_one_value": two_limits_of_one_value,
}
