"""Graphs that move entries and leave them as they are: Transposes, Reshapes, Expands, codes that are quantized again.

Each name ends in what is special about it; those that a pass must leave alone are named for what is in its way.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import onnx_ir as ir

from tests.graphs import build, normal

TO_CHANNELS, BACK = "perm = [0,3,1,2]", "perm = [0,2,3,1]"


def between(
    middle: str, outputs: str = "float[2,3,4,5] y", first: str = TO_CHANNELS, opset: int = 17, x: str = "2,3,4,5"
) -> ir.Model:
    """x: [2,3,4,5], t: [2,5,3,4]; `middle` makes m from t."""
    return build(
        f"""(float[{x}] x, float[2,5,3,4] z) => ({outputs}) {{
            t = Transpose<{first}>(x)  {middle}  y = Transpose<{BACK}>(m)
        }}""",
        opset,
        by_channel=normal(5, 1, 1),
        by_entry=normal(2, 5, 3, 4),
        one=np.float32(3),
        codes=np.arange(120, dtype=np.uint8).reshape(2, 5, 3, 4),
        large=normal(8, 5, 3, 4),
        step=np.float32(0.5),
        steps=normal(5),
    )


def folded(fold: str, order: str, unfold: str, shape: str, outputs: str = "float[A,B,C] y") -> ir.Model:
    text = f"""(float[{shape}] x) => ({outputs}) {{
        r = Reshape(x, fold)  t = Transpose<perm = [{order}]>(r)  y = Reshape(t, unfold)
    }}"""
    numbers = {"fold": fold, "unfold": unfold}
    return build(text, **{name: np.array([int(one) for one in sizes.split(",")]) for name, sizes in numbers.items()})


def widened(operator: str, x: str = "3,1", z: str = "3,4", to: tuple[int, ...] = (3, 4)) -> ir.Model:
    text = f"(float[{x}] x, float[{z}] z) => (float[A,B] y) {{ e = Expand(x, to)  y = {operator} }}"
    return build(text, to=np.array(to), one=np.float32(1), yes=np.array(True))


def requantized(
    middle: str = "",
    again: str = "d, scale, zero",
    q: str = "uint8",
    first: str = "q, scale, zero",
    **other: np.ndarray,
) -> ir.Model:
    """Codes q; d is what they stand for."""
    gives = "uint8" if again == "d, scale" else q
    text = f"""({q}[3,4] q) => ({gives}[A,B] y) {{
        d = DequantizeLinear({first})  {middle}  y = QuantizeLinear({again})
    }}"""
    weights = {"scale": np.float32(0.3), "zero": np.array(7, q), "shape": np.array([2, 6])} | other
    return build(text, opset=21, **weights)


def requantized_run_time_scale() -> ir.Model:
    text = "(uint8[3] q, float s) => (uint8[3] y) { d = DequantizeLinear(q, s, z)  y = QuantizeLinear(d, s, z) }"
    return build(text, z=np.uint8(7))


def quantized() -> ir.Model:
    text = "(float[3] x) => (float[3] y) { q = QuantizeLinear(x, s, z)  y = DequantizeLinear(q, s, z) }"
    return build(text, s=np.float32(0.3), z=np.uint8(7))


def constant_requantized(middle: str = "r = Reshape(d, shape)", **other: np.ndarray) -> ir.Model:
    text = f"""(float[2,6] x) => (float[2,6] y) {{
        d = DequantizeLinear(codes, scale, zero)  {middle}  c = QuantizeLinear(r, scale, zero)
        w = DequantizeLinear(c, scale, zero)  y = Add(x, w)
    }}"""
    weights = {"codes": np.arange(12, dtype=np.uint8).reshape(3, 4), "scale": np.float32(0.3)}
    return build(text, **weights | {"zero": np.uint8(7), "shape": np.array([2, 6])} | other)


def gathered(perm: str, axis: int, index: np.ndarray, outputs: str = "float[A,B] y") -> ir.Model:
    text = f"(float[2,3,4] x) => ({outputs}) {{ t = Transpose<perm = [{perm}]>(x)  y = Gather<axis = {axis}>(t, at) }}"
    return build(text, at=index)


def concats(second: str = "Concat<axis = 1>(a, x)", outputs: str = "float[A,B] y") -> ir.Model:
    return build(f"(float[N,3] x, float[N,3] z) => ({outputs}) {{ a = Concat<axis = -1>(x, z)  y = {second} }}")


def constants_in_bodies() -> ir.Model:
    """The Loop goes on for good, and each branch gives a number of its own."""
    return build(
        """(float[2] x, bool c) => (float[2] y) {
            s = Loop (trips, yes, x) <body = l (int64 i, bool go, float[2] a) => (bool on, float[2] r) {
                on = Identity(yes)  r = Neg(a)
            }>
            k = If (c) <then_branch = t () => (float[2] p) { p = Constant<value = float[2] {1, 2}>() },
                        else_branch = e () => (float[2] q) { q = Identity(two) }>
            y = Add(s, k)
        }""",
        trips=np.array(3),
        yes=np.array(True),
        two=np.array([3, 4], np.float32),
    )


def weights_written_short(size: int = 3) -> ir.Model:
    """A convolution's weight and a norm's parameters as one number each, and such a number that is no weight."""
    return build(
        """(float[1,2,6,6] x) => (float[1,512,A,B] y) {
            w = ConstantOfShape<value = float[1] {0.5}>(shape)  k = ConstantOfShape<value = float[1] {2.0}>(channels)
            c = Conv(x, w)  n = BatchNormalization(c, k, k, k, k)
            wide = ConstantOfShape<value = float[1] {3.0}>(like)  y = Mul(n, wide)
        }""",
        shape=np.array([512, 2, size, size]),
        channels=np.array([512]),
        like=np.array([1, 512, 1, 1]),
    )


GRAPHS: dict[str, Callable[[], ir.Model]] = {
    "between_channels": partial(between, "m = Add(t, by_channel)"),
    "between_entries": partial(between, "a = Mul(by_entry, t)  m = Sub(a, by_entry)"),
    "between_dequantized": partial(between, "d = DequantizeLinear(codes, step)  m = Add(t, d)"),
    "between_scalar_and_relu": partial(between, "a = Div(t, one)  m = Relu(a)"),
    "between_softmax": partial(between, "m = Softmax<axis = -3>(t)"),
    "between_two_readers": partial(between, "m = Add(t, by_channel)", "float[2,3,4,5] y, float[2,5,3,4] m"),
    "between_softmax_opset_11": partial(between, "m = Softmax<axis = 3>(t)", opset=11),
    "between_data": partial(between, "m = Add(t, z)"),
    "between_weight_of_others": partial(
        between, "m = Add(t, large)  k = Neg(large)", "float[8,3,4,5] y, float[8,5,3,4] k", x="1,3,4,5"
    ),
    "between_another_order": partial(
        between, "m = Relu(t)", "float[A,B,C,D] y", "perm = [0,1,3,2]"
    ),
    "between_scales_by_channel": partial(between, "d = DequantizeLinear(codes, steps)  m = Add(t, d)"),
    "folded_image": partial(folded, "12,5", "1,0", "5,3,4", "3,4,5"),
    "folded_with_ones": partial(folded, "6,1,4", "2,0,1", "4,1,2,3,1", "1,2,3,1,4", "float[A,B,C,D,E] y"),
    "folded_free_axis": partial(folded, "0,12", "1,0", "3,4,-1", "N,3,4"),
    "folded_and_split": partial(folded, "6,2,2", "1,0,2", "2,6,2", "6,4"),
    "folded_otherwise": partial(folded, "12,5", "1,0", "5,4,3", "3,4,5"),
    "folded_and_read": partial(folded, "12,5", "1,0", "5,3,4", "3,4,5", "float[A,B,C] y, float[A,B] t"),
    "widened_for_sum": partial(widened, "Add(e, z)"),
    "widened_for_choice": partial(widened, "Where(yes, z, e)"),
    "widened_twice": partial(widened, "Mul(z, e)", z="1,4", x="3,4"),
    "widened_alone": partial(widened, "Add(e, one)"),
    "widened_beside_free": partial(widened, "Add(e, z)", x="1,1", z="M,4", to=(2, 1)),
    "widened_rank": partial(widened, "Sub(e, z)", x="4", z="3,4"),
    "requantized_alike": requantized,
    "requantized_per_channel": partial(
        requantized, scale=np.float32([0.1, 0.2, 0.3, 0.4]), zero=np.uint8([1, 2, 3, 4])
    ),
    "requantized_16_bits": partial(requantized, q="uint16"),
    "requantized_other_scale": partial(requantized, again="d, other, zero", other=np.float32(0.31)),
    "requantized_other_type": partial(requantized, again="d, scale", q="int8", first="q, scale"),
    "requantized_no_scale": partial(requantized, scale=np.float32(0)),
    "requantized_after_reshape": partial(requantized, "r = Reshape(d, shape)", "r, scale, zero"),
    "requantized_run_time_scale": requantized_run_time_scale,
    "quantized": quantized,
    "constant_requantized": constant_requantized,
    "constant_requantized_between": partial(constant_requantized, "a = Neg(d)  r = Reshape(a, shape)"),
    "gathered_first": partial(gathered, "2,0,1", 0, np.array(1)),
    "gathered_middle": partial(gathered, "0,2,1", 2, np.array(-1)),
    "gathered_out_of_order": partial(gathered, "2,1,0", 0, np.array(1)),
    "gathered_row": partial(gathered, "2,0,1", 0, np.array([1]), "float[A,B,C] y"),
    "concats_in_a_row": concats,
    "concats_read_twice": partial(concats, outputs="float[A,B] y, float[C,D] a"),
    "constants_in_bodies": constants_in_bodies,
    "weights_written_short": weights_written_short,
}  # fmt: skip
