"""Factors folded into what makes an input: nothing is added, and the graph computes what it did."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_ir as ir
import pytest
import torch

from compressor.quantize.flow.linears import find_linears
from compressor.quantize.scaling import find_pairs
from tests import graphs, laws

WIDTH, INNER = 24, 40
TYPES = "(float[N,24] x) => (float[N,24] y)"
# Body, and by name of the first divided constant the weights that read what it makes.
BODIES: dict[str, tuple[str, dict[str, list[str]]]] = {
    "rms norm, one input for two, a product between": (
        "n = RMSNormalization<axis = -1>(x, g)  a = MatMul(n, wa)  b = MatMul(n, wb)  s = Sigmoid(a)  p = Mul(s, b)"
        "  y = MatMul(p, wc)",
        {"g": ["wa", "wb"], "wb": ["wc"]},
    ),
    "layer norm with a bias": (
        "n = LayerNormalization<axis = -1>(x, g, h)  a = MatMul(n, wa)  t = Tanh(a)  y = MatMul(t, wc)",
        {"g": ["wa"]},
    ),
    "relu between two products with biases": (
        "a = MatMul(x, wa)  c = Add(a, u)  r = Relu(c)  y = Gemm(r, wc, h)",
        {"wa": ["wc"]},
    ),
    "weights stored the other way round": (
        "a = MatMul(x, wa)  r = Relu(a)  t = Transpose<perm = [1, 0]>(wd)  y = MatMul(r, t)",
        {"wa": ["wd"]},
    ),
    "a norm written out": (
        "q = Mul(x, x)  m = ReduceMean(q, last)  e = Sqrt(m)  d = Div(x, e)  n = Mul(g, d)  a = MatMul(n, wa)"
        "  t = Tanh(a)  y = MatMul(t, wc)",
        {"g": ["wa"]},
    ),
    "one weight for two norms": (
        "n = RMSNormalization<axis = -1>(x, g)  a = MatMul(n, wa)  r = Relu(a)  b = MatMul(r, wc)"
        "  m = RMSNormalization<axis = -1>(b, g)  y = MatMul(m, we)",
        {"g": ["wa"], "wa": ["wc"], "g ": ["we"]},
    ),
    "read by others too": ("n = RMSNormalization<axis = -1>(x, g)  a = MatMul(n, we)  y = Add(n, a)", {}),
    "no constant of so many channels": ("n = Mul(x, one)  y = MatMul(n, we)", {}),
    "a matrix that another product reads": ("a = MatMul(x, we)  r = Relu(a)  b = MatMul(r, wf)  y = MatMul(b, we)", {}),
    "a sum of which one side is seen": ("a = MatMul(x, we)  b = Add(a, x)  y = MatMul(b, wf)", {}),
}


def model(body: str) -> ir.Model:
    square = (WIDTH, WIDTH)
    shapes = {"wa": (WIDTH, INNER), "wb": (WIDTH, INNER), "wc": (INNER, WIDTH), "wd": (WIDTH, INNER), "we": square}
    shapes |= {"wf": square, "g": (WIDTH,), "h": (WIDTH,), "u": (INNER,)}
    weights = {name: graphs.normal(*shape) for name, shape in shapes.items() if f"{name}" in body}
    weights |= {"one": np.float32(2)} if "one)" in body else {}
    weights |= {"last": np.array([-1])} if "last" in body else {}
    return graphs.build(f"{TYPES} {{ {body} }}", opset=23, **weights)


@pytest.mark.parametrize("name", BODIES)
def test_the_graph_computes_what_it_did(name: str) -> None:
    body, expected = BODIES[name]
    made = model(body)
    before, feeds = laws.run(made), laws.feeds_for(made)
    pairs = find_pairs(find_linears(made)[0])
    assert [(pair.name, [one.name for one in pair.linears]) for pair in pairs] == [
        (divided.strip(), readers) for divided, readers in expected.items()
    ]
    operators = Counter(node.op_type for node in made.graph)
    generator = torch.Generator().manual_seed(0)
    for pair in pairs:
        pair.scale(made.graph, torch.rand(pair.linears[0].shape[0], generator=generator) * 4 + 0.25)
    assert Counter(node.op_type for node in made.graph) == operators
    laws.assert_same(before, laws.run(made, feeds))
    assert [one.name for one in find_linears(made)[0]] == [one.name for one in find_linears(model(body))[0]]


def test_half_precision_stays_half() -> None:
    body = "n = LayerNormalization<axis = -1>(x, g)  a = MatMul(n, wa)  r = Relu(a)  y = MatMul(r, wc)"
    made = model(body)
    for value in made.graph.initializers.values():
        assert value.const_value is not None
        value.const_value = ir.Tensor(value.const_value.numpy().astype(np.float16), name=value.name)
    for pair in find_pairs(find_linears(made)[0]):
        pair.scale(made.graph, torch.full((pair.linears[0].shape[0],), 2.0))
    assert {value.const_value.dtype for value in made.graph.initializers.values() if value.const_value} == {
        ir.DataType.FLOAT16
    }
