"""The pieces of a transformer as exporters write them, each with what keeps it from being fused as an argument.

    transformer_graphs.rms_norm(root="over", opset=21)

Attention stands in `attention_graphs.py`; GRAPHS holds both.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import onnx_ir as ir

from tests import attention_graphs
from tests.graphs import build, inferred, normal

# --- norms -----------------------------------------------------------------------------------------------------------


def rms_norm(
    opset: int = 23, power: str = "Pow(x, two)", root: str = "times", weight: str = "w", width: str = "16"
) -> ir.Model:
    """root: times (x * 1/sqrt), over (x / sqrt). weight: w, `given` (an input of the graph), or none.

    width: an axis of any size may be 1 in a run, and the weight then widens it.
    """
    scaled = {"times": "i = Reciprocal(r)  n = Mul(x, i)", "over": "n = Div(x, r)"}[root]
    return inferred(
        f"""(float[N,S,{width}] x, float[16] given) => (float[N,S,16] y) {{
            p = {power}
            m = ReduceMean(p, last)
            e = Add(m, epsilon)
            r = Sqrt(e)
            {scaled}
            y = {f"Mul({weight}, n)" if weight else "Neg(n)"}
        }}""",
        opset,
        w=normal(16),
        two=np.float32(2),
        last=np.array([-1]),
        epsilon=np.float32(1e-5),
    )


def layer_norm(
    opset: int = 17, square: str = "Mul(d, d)", last: str = "s = Mul(n, w)  y = Add(s, b)", end: str = "n = Div(d, r)"
) -> ir.Model:
    """Written out, as exporters before opset 17 do."""
    text = f"""(float[B,6,16] x, float[B,6,16] z) => (float[B,6,16] y) {{
        m = ReduceMean<axes = [-1]>(x)  d = Sub(x, m)  q = {square}  v = ReduceMean<axes = [-1]>(q)
        e = Add(v, epsilon)  r = Sqrt(e)  {end}  {last}
    }}"""
    vectors = {"w": normal(16), "b": normal(16) + 1, "row": normal(6, 16)}
    numbers = {"epsilon": np.float32(1e-5), "two": np.float32(2), "one": np.float32(1)}
    return build(text, opset, **vectors, **numbers)


def rms_norm_of_another() -> ir.Model:
    """The root is of z and divides x."""
    return inferred(
        """(float[N,16] x, float[N,16] z) => (float[N,16] y) {
            p = Mul(z, z)  m = ReduceMean(p, last)  e = Add(m, epsilon)  r = Sqrt(e)  n = Div(x, r)  y = Mul(w, n)
        }""",
        23,
        w=normal(16),
        last=np.array([-1]),
        epsilon=np.float32(1e-5),
    )


def half_precision_norm() -> ir.Model:
    """float16 around, float32 inside: the cast stands before the weight."""
    return inferred(
        """(float16[N,16] x) => (float16[N,16] y) {
            x32 = Cast<to = 1>(x)  p = Mul(x32, x32)  m = ReduceMean(p, last)  e = Add(m, epsilon)  r = Sqrt(e)
            n32 = Div(x32, r)  n = Cast<to = 10>(n32)  y = Mul(w, n)
        }""",
        23,
        w=normal(16).astype(np.float16),
        last=np.array([-1]),
        epsilon=np.float32(1e-5),
    )


def skip_norm(
    norm: str = "RMSNormalization<axis = -1>(s, w)",
    skip: str = "float[N,S,16]",
    term: str = "Identity(skip)",
    last: str = "Add(n, s)",
) -> ir.Model:
    return inferred(
        f"""(float[N,S,16] x, {skip} skip) => (float[N,S,16] y) {{
            t = {term}
            s = Add(x, t)
            n = {norm}
            y = {last}
        }}""",
        23,
        w=normal(16),
        b=normal(16),
        whole=normal(3, 16),
    )


# --- rotary embedding ------------------------------------------------------------------------------------------------


def rotary(
    opset: int = 23, angles: str = "Concat<axis = -1>(f, f)", split: str = "slice", halves: str = "lo, hi"
) -> ir.Model:
    """`angles` of both halves; `halves` of x, as (lower, upper) are cut: swapped, it is another rotation."""
    lower, upper = halves.split(", ")
    cut = {
        "slice": "lo = Slice(x, zero, half, last)  hi = Slice(x, half, end, last)",
        "split": "lo, hi = Split<axis = -1, num_outputs = 2>(x)",
    }[split]
    return inferred(
        f"""(float[B,4,S,8] x, float[B,S,4] f) => (float[B,4,S,8] y) {{
            g = Neg(f)
            a = {angles}
            c = Cos(a)  c1 = Mul(c, one)  cos = Unsqueeze(c1, heads)
            s = Sin(a)  s1 = Mul(s, one)  sin = Unsqueeze(s1, heads)
            {cut}
            n = Neg({upper})
            r = Concat<axis = -1>(n, {lower})
            p = Mul(x, cos)  q = Mul(r, sin)  y = Add(p, q)
        }}""",
        opset,
        one=np.float32(1.5),
        heads=np.array([1]),
        zero=np.array([0]),
        half=np.array([4]),
        end=np.array([np.iinfo(np.int64).max]),
        last=np.array([3]),
    )


# --- activations -----------------------------------------------------------------------------------------------------

GELU = {
    "erf": "d = Div(x, root)  e = Erf(d)  o = Add(e, one)  h = Mul(x, half)  y = Mul(h, o)",
    "erf_halved_last": "d = Mul(x, unroot)  e = Erf(d)  o = Add(e, one)  h = Mul(x, o)  y = Mul(h, half)",
    "tanh": "c = Pow(x, three)  k = Mul(c, cubic)  i = Add(x, k)  s = Mul(i, pi)  t = Tanh(s)  o = Add(t, one)  "
    "h = Mul(x, half)  y = Mul(h, o)",
    "tanh_cubed_by_hand": "b = Mul(x, x)  c = Mul(x, b)  k = Mul(c, cubic)  i = Add(x, k)  s = Mul(i, pi)  "
    "t = Tanh(s)  o = Add(t, one)  h = Mul(x, half)  y = Mul(h, o)",
    "of_another": "d = Div(z, root)  e = Erf(d)  o = Add(e, one)  h = Mul(x, half)  y = Mul(h, o)",
    "wrong_root": "d = Div(x, three)  e = Erf(d)  o = Add(e, one)  h = Mul(x, half)  y = Mul(h, o)",
    "not_halved": "d = Div(x, root)  e = Erf(d)  o = Add(e, one)  y = Mul(x, o)",
}


def gelu(form: str = "erf", opset: int = 20) -> ir.Model:
    return inferred(
        f"(float[N,8] x, float[N,8] z) => (float[N,8] y) {{ {GELU[form]} }}",
        opset,
        root=np.float32(np.sqrt(2)),
        unroot=np.float32(np.sqrt(0.5)),
        one=np.float32(1),
        half=np.float32(0.5),
        three=np.float32(3),
        cubic=np.float32(0.044715),
        pi=np.float32(np.sqrt(2 / np.pi)),
    )


def quick_gelu(inner: str = "Mul(x, alpha)", outer: str = "x") -> ir.Model:
    return inferred(
        f"(float[N,8] x, float[N,8] z) => (float[N,8] y) {{ a = {inner}  s = Sigmoid(a)  y = Mul({outer}, s) }}",
        17,
        alpha=np.float32(1.702),
    )


def bias_gelu(
    form: str = "Gelu(a)", added: str = "Add(x, b)", outputs: str = "float[N,S,8] y", opset: int = 20
) -> ir.Model:
    return inferred(
        f"(float[N,S,8] x, float[8] given) => ({outputs}) {{ a = {added}  y = {form} }}",
        opset,
        b=normal(8),
        rows=normal(1, 8),
        zeros=np.zeros(8, np.float32),
    )


GRAPHS: dict[str, Callable[[], ir.Model]] = {
    **attention_graphs.GRAPHS,
    **{f"gelu_{form}": partial(gelu, form) for form in GELU},
    "gelu_opset_19": partial(gelu, opset=19),
    "quick_gelu": quick_gelu,
    "quick_gelu_of_another": partial(quick_gelu, outer="z"),
    "silu": partial(quick_gelu, inner="Identity(x)"),
    "bias_gelu": bias_gelu,
    "bias_gelu_of_rows": partial(bias_gelu, added="Add(x, rows)"),
    "bias_gelu_of_zeros": partial(bias_gelu, added="Add(x, zeros)"),
    "bias_gelu_given": partial(bias_gelu, added="Add(x, given)"),
    "bias_gelu_read": partial(bias_gelu, outputs="float[N,S,8] y, float[N,S,8] a"),
    "bias_gelu_tanh": partial(bias_gelu, 'Gelu<approximate = "tanh">(a)', "Add(b, x)"),
    "layer_norm": layer_norm,
    "layer_norm_of_another": partial(layer_norm, square="Mul(z, z)"),
    "layer_norm_of_rows": partial(layer_norm, last="s = Mul(n, w)  y = Add(s, row)"),
    "layer_norm_opset_11": partial(layer_norm, opset=11),
    "layer_norm_power": partial(layer_norm, square="Pow(d, two)", end="i = Div(one, r)  n = Mul(d, i)"),
    "layer_norm_without_bias": partial(layer_norm, last="y = Mul(w, n)"),
    "rms_norm": rms_norm,
    "rms_norm_half_precision": half_precision_norm,
    "rms_norm_of_another": rms_norm_of_another,
    "rms_norm_opset_21": partial(rms_norm, opset=21),
    "rms_norm_over": partial(rms_norm, root="over", power="Mul(x, x)"),
    "rms_norm_unweighted": partial(rms_norm, weight=""),
    "rms_norm_weight_is_an_input": partial(rms_norm, weight="given"),
    "rotary": rotary,
    "rotary_of_different_angles": partial(rotary, angles="Concat<axis = -1>(f, g)"),
    "rotary_opset_21": partial(rotary, opset=21),
    "rotary_split": partial(rotary, split="split"),
    "rotary_swapped": partial(rotary, halves="hi, lo"),
    "skip_layer_norm": partial(skip_norm, norm="LayerNormalization<axis = -1>(s, w, b)"),
    "skip_layer_norm_is_unread": partial(skip_norm, norm="LayerNormalization<axis = -1>(s, w, b)", last="Neg(n)"),
    "skip_norm": skip_norm,
    "skip_norm_broadcasts": partial(skip_norm, skip="float[16]"),
    "skip_norm_biased": partial(skip_norm, term="Add(skip, b)"),
    "skip_norm_bias_is_read": partial(skip_norm, term="Add(skip, b)", last="Add(n, t)"),
    "skip_norm_is_unread": partial(skip_norm, last="Neg(n)"),
}
