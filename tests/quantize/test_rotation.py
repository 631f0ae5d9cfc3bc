"""Rotations folded into the weights: the graph computes what it did; where it would not, they are refused."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_ir as ir
import pytest

from compressor.errors import RequestError
from compressor.quantize.rotation import orthogonal, rotate
from tests import graphs, laws

WIDTH, INNER, WORDS = 24, 40, 11
HEAD = f"(int64[N,T] input_ids) => (float[N,T,{WORDS}] y) {{ e = Gather(table, input_ids)"
SCALED = f"{HEAD.replace('e = Gather', 'z = Gather')}  e = Mul(z, k)"
LAYER = """  n = RMSNormalization<axis = -1>(e, g)  a = MatMul(n, wa)  b = MatMul(n, wb)  s = Sigmoid(a)  p = Mul(s, b)
    d = MatMul(p, wd)"""
END = "  f = RMSNormalization<axis = -1>(h, g)  y = MatMul(f, wy) }"
BODIES = {
    "a gated layer": f"{HEAD}{LAYER}  h = Add(e, d){END}",
    "a product with a bias": f"{HEAD}{LAYER}  c = Add(d, u)  h = Add(c, e){END}",
    "an embedding times a number": f"{SCALED}{LAYER}  h = Add(e, d){END}",
    "a skip in the norm": f"""{HEAD}{LAYER}
        f, m, i, h = com.microsoft.SkipSimplifiedLayerNormalization(e, d, g, u)
        c = MatMul(f, wq)  o = Tanh(c)  r = MatMul(o, wr)
        q, mm, ii, w = com.microsoft.SkipSimplifiedLayerNormalization(h, r, g)  y = MatMul(q, wy) }}""",
}
REFUSED = {
    "is a LayerNormalization, which a rotation does not pass": f"""{HEAD}
        n = LayerNormalization<axis = -1>(e, g)  y = MatMul(n, wy) }}""",
    "is a Tanh, which a rotation does not pass": f"{HEAD}{LAYER}  j = Tanh(d)  t = Tanh(e)  h = Add(t, j){END}",
    "'j' joins the residual stream and is no product": f"{HEAD}{LAYER}  j = Tanh(d)  h = Add(e, j){END}",
    "'f' is read by more than products": f"{HEAD}{LAYER}  h = Add(e, d)  f = RMSNormalization<axis = -1>(h, g)"
    "  j = Tanh(f)  r = Add(j, f)  y = MatMul(r, wy) }",
    "no residual stream": "(float[N,24] x) => (float[N,11] y) { y = MatMul(x, wy) }",
}


def model(text: str) -> ir.Model:
    shapes = {"table": (WORDS, WIDTH), "g": (WIDTH,), "u": (WIDTH,), "wd": (INNER, WIDTH), "wy": (WIDTH, WORDS)}
    shapes |= {"wa": (WIDTH, INNER), "wb": (WIDTH, INNER), "wq": (WIDTH, INNER), "wr": (INNER, WIDTH)}
    weights = {
        name: graphs.normal(*shape) for name, shape in shapes.items() if f"{name})" in text or f"{name}," in text
    }
    weights |= {"k": np.float32(3)} if ", k)" in text else {}
    return graphs.build(text, opset=23, **weights)


def assert_computes_the_same(made: ir.Model, before: laws.Outputs, feeds: dict[str, np.ndarray]) -> None:
    after = laws.run(made, feeds)["y"]
    # Every product sums other numbers: 2^-23 of the largest, some tens of terms, four products behind each other.
    np.testing.assert_allclose(after, before["y"], rtol=0, atol=2e-5 * np.abs(before["y"]).max())


@pytest.mark.parametrize("name", BODIES)
def test_the_graph_computes_what_it_did(name: str) -> None:
    made = model(BODIES[name])
    feeds = {"input_ids": np.random.default_rng(0).integers(0, WORDS, (2, 5))}
    before, operators = laws.run(made, feeds), Counter(node.op_type for node in made.graph)
    weights = {key: np.array(value.const_value.numpy()) for key, value in made.graph.initializers.items()}  # type: ignore[union-attr]
    rows = rotate(made, untie=False, seed=0)
    assert_computes_the_same(made, before, feeds)
    assert Counter(node.op_type for node in made.graph) == operators
    assert {"wa", "wb", "wd", "wy"} <= set(rows[0]["weights"])
    for key in ("table", "wa", "wb", "wd", "wy"):
        assert not np.allclose(made.graph.initializers[key].const_value.numpy(), weights[key]), key  # type: ignore[union-attr]


@pytest.mark.parametrize("why", REFUSED)
def test_what_a_rotation_would_change_is_refused(why: str) -> None:
    with pytest.raises(RequestError, match=why) as caught:
        rotate(model(REFUSED[why]), untie=False, seed=0)
    assert "leave rotations out" in str(caught.value)


def test_a_tied_embedding_is_stored_twice_on_request() -> None:
    text = f"{HEAD}{LAYER}  h = Add(e, d)  f = RMSNormalization<axis = -1>(h, g)"
    text += "  t = Transpose<perm = [1, 0]>(table)  y = MatMul(f, t) }"
    feeds = {"input_ids": np.random.default_rng(0).integers(0, WORDS, (2, 5))}
    made = model(text)
    before = laws.run(made, feeds)
    with pytest.raises(RequestError, match=r"'table' is embedding and head at once.+set quantize\.rotations\.untie"):
        rotate(made, untie=False, seed=0)
    assert_computes_the_same(made, before, feeds)  # nothing was touched
    rotate(made, untie=True, seed=0)
    assert_computes_the_same(made, before, feeds)
    assert sum(value.shape == ir.Shape([WORDS, WIDTH]) for value in made.graph.initializers.values()) == 2


@pytest.mark.parametrize("width", [1, 2, 64, 24, 384, 7])
def test_rotations_keep_lengths_and_spread_every_channel(width: int) -> None:
    Q = orthogonal(width, seed=0)
    np.testing.assert_allclose(Q.T @ Q, np.eye(width), atol=1e-12)  # sums of 384 products in float64
    assert np.abs(Q).max() <= np.sqrt(2 / width) * (1 + 1e-12) or width == 1
    assert np.array_equal(Q, orthogonal(width, seed=0))
    assert not np.array_equal(Q, orthogonal(width, seed=1)) or width < 8


def test_a_loud_channel_is_loud_no_more() -> None:
    x = np.random.default_rng(0).normal(size=(100, 64))
    x[:, 5] *= 50
    peak = np.abs(x).max(1) / np.sqrt(np.square(x).mean(1))
    rotated = x @ orthogonal(64, seed=0)
    assert np.median(np.abs(rotated).max(1) / np.sqrt(np.square(rotated).mean(1))) < 2.5 < np.median(peak)
