from __future__ import annotations

import numpy as np
import pytest

from passes.import_normalization import ImportNormalization
from passes.shape_arithmetic import ShapeArithmetic
from tests import graphs, laws


def reshaped(arithmetic: str, dims: str = "N,6,4", **weights: np.ndarray) -> graphs.ir.Model:
    text = f"(float[{dims}] x) => (float[A,B] y) {{ s = Shape(x)  {arithmetic}  y = Reshape(x, t) }}"
    return graphs.typed(text, **weights)


HEAD = "n = Gather(s, zero)  u = Unsqueeze(n, first)  "
WEIGHTS = {"zero": np.array(0), "first": np.array([0]), "rest": np.array([24]), "left": np.array([-1])}


@pytest.mark.parametrize("tail", ["t = Concat<axis = 0>(u, rest)", "t = Concat<axis = 0>(u, left)"])
def test_a_target_relative_to_the_input_is_written_down(tail: str) -> None:
    model = reshaped(HEAD + tail, **WEIGHTS)
    assert laws.left_by(ShapeArithmetic(), model) == ["Reshape"]
    feeds = laws.feeds_for(model, 5)
    assert laws.run(model, feeds)["y"].shape == (5, 24)


def test_known_sizes_are_numbers() -> None:
    text = "(float[2,6] x) => (int64[2] y) { s = Shape(x)  d = Mul(s, two)  y = Neg(d) }"
    assert laws.left_by(ShapeArithmetic(), graphs.typed(text, two=np.array(2))) == ["Neg"]


def test_two_free_sizes_stay() -> None:
    text = """(float[N,M,4] x, float[K] z) => (float[A,B,C] y) {
        s = Shape(x)  r = Shape(z)  n = Slice(s, zero, one)  t = Concat<axis = 0>(r, n, four)  y = Reshape(x, t)
    }"""
    model = graphs.typed(text, zero=np.array([0]), one=np.array([1]), four=np.array([4]))
    left = laws.left_by(ShapeArithmetic(), model)
    assert "Concat" in left


def test_names_that_two_inputs_share_prove_nothing() -> None:
    """A caller may pass 1 for the one and 3 for the other."""
    text = "(float[N] x, float[N] z) => (float[M] y) { s = Shape(z)  y = Expand(x, s) }"
    assert "Shape" in laws.left_by(ShapeArithmetic(), graphs.typed(text))


def test_a_range_counts_to_a_number() -> None:
    """ONNX Runtime takes a vector of one entry for it until it sees that it is one, as it does once all are known."""
    text = "(int64[1] n) => (int64[A] y) { y = Range(zero, n, one) }"
    model = graphs.typed(text, zero=np.array(0), one=np.array([1]))
    assert laws.left_by(ShapeArithmetic(), model) == ["Reshape", "Range"]
    assert [value.shape for value in model.graph[-1].inputs] == [()] * 3


def test_a_size_of_none_stays_one_where_zero_is_zero() -> None:
    """With allowzero a 0 in the target is a size; written down, it copies the input's, which is 0 there."""
    model = reshaped(HEAD + "t = Concat<axis = 0>(u, rest)", **WEIGHTS)
    model.graph[-1].attributes["allowzero"] = graphs.ir.AttrInt64("allowzero", 1)
    assert laws.left_by(ShapeArithmetic(), model) == ["Reshape"]
    assert laws.run(model, laws.feeds_for(model, 0))["y"].shape == (0, 24)


def test_sizes_that_were_found_are_not_computed_again() -> None:
    """The second Shape is of a value that has the axes of the first; and what is made of it follows."""
    model = graphs.typed(
        """(float[N,M] x) => (int64[2] y, int64[2] z) {
            s = Shape(x)  a = Neg(x)  t = Shape(a)  b = Add(s, one)  c = Add(t, one)  y = Neg(b)  z = Abs(c)
        }""",
        one=np.array([1, 1]),
    )
    assert laws.left_by(ShapeArithmetic(), model) == ["Shape", "Add", "Neg", "Abs"]


@pytest.mark.parametrize(
    "node",
    [
        "a = com.microsoft.QuickGelu(x)",
        "a, u, v, w = com.microsoft.SkipLayerNormalization(x, x, scale)",
        "a = com.microsoft.MultiHeadAttention<num_heads = 2>(x, x, x)",
        "u, v = Split<axis = 2, num_outputs = 2>(x)  a = Neg(v)",
        "a = RotaryEmbedding<num_heads = 2>(x, half, half)",
    ],
)
def test_axes_are_followed_through_operators_of_all_kinds(node: str) -> None:
    """Batch and sequence of what these make are those of what they take."""
    model = graphs.build(
        f"""(float[N,S,8] x, float[N,S,2] half) => (float[A,B,C] y) {{
            {node}  s = Shape<start = 0, end = 2>(x)  t = Shape<start = 0, end = 2>(a)
            d = Sub(s, t)  e = Concat<axis = 0>(d, last)  y = Reshape(a, e)
        }}""",
        23,
        scale=np.ones(8, np.float32),
        last=np.array([-1]),
    )
    ImportNormalization()(model)
    ShapeArithmetic()(model)
    assert not [one for one in model.graph if one.op_type in ("Shape", "Sub", "Concat")]
