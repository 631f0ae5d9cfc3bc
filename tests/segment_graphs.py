"""Graphs that fall into segments: what is carried between them, made again in each, or read by a branch alone."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from tests import graphs

RESIDUAL = """(float[N,T,24] x) => (float[N,T,24] y) {
    q = MatMul(x, wq)  k = MatMul(x, wk)  a = Mul(q, k)  s = Tanh(a)
    t = Transpose(wo)  o = MatMul(s, t)  r = Add(x, o)
    g = MatMul(r, wg)  h = Relu(g)
    d = MatMul(h, wd)  e = Add(r, d)  u = Add(e, s)
    y = MatMul(u, wy)
}"""
BIASES = """(float[N,24] x) => (float[N,24] y) {
    h = Gemm<transB = 1>(x, wo, b)  r = Relu(h)  o = Gemm(r, wg)  s = Sigmoid(o)
    d = Gemm(s, wd, b)  u = Add(d, x)  y = Gemm<transB = 1>(u, wy, b)
}"""
# A product that is the next product's input, with nothing between; and one that nobody reads.
CHAIN = """(float[N,T,24] x) => (float[N,T,24] y, float[N,T,24] side) {
    q = MatMul(x, wq)  k = MatMul(q, wk)  side = MatMul(x, wy)  y = MatMul(k, wg)
}"""
# What depends on shapes and integers alone is made again in each segment, a small embedding with it.
REMADE = """(int64[N,T] ids) => (float[N,T,24] y) {
    x = Gather(table, ids)  n = Neg(x)  q = MatMul(n, wq)  a = Add(q, x)
    s = Shape(ids)  zero = ConstantOfShape(s)  z = Unsqueeze(zero, last)  i = Add(a, z)
    k = MatMul(i, wk)  r = Add(k, x)  w = Add(r, z)  y = MatMul(w, wy)
}"""
SEQUENCE = """(float[N,T,24] x) => (float[N,T,8] y) {
    q = MatMul(x, wq)  parts = SplitToSequence<axis = 2, keepdims = 1>(q, thirds)
    a = SequenceAt(parts, first)  c = SequenceAt(parts, second)  h = Mul(a, c)
    y = MatMul(h, small)
}"""
# Branches read values of two segments without having them among the inputs of the If.
BRANCHES = """(float[N,T,24] x, bool c) => (float[N,T,24] y) {
    q = MatMul(x, wq)  s = Tanh(q)  k = MatMul(s, wk)
    i = If (c) <then_branch = t () => (float[N,T,24] n) { n = Add(s, k) },
                else_branch = e () => (float[N,T,24] m) { m = Mul(k, x) }>
    y = MatMul(i, wy)
}"""
# Two layers of the same weights, one of them turned once for both; the second adds what another bias says.
SHARED = """(float[N,T,24] x) => (float[N,T,24] y) {
    t = Transpose(wo)
    q = MatMul(x, wq)  k = MatMul(x, wk)  a = Mul(q, k)  s = Tanh(a)  o = MatMul(s, t)  r = Add(x, o)
    g = MatMul(r, wk)  h = MatMul(r, wq)  c = Add(g, b)  d = Mul(h, c)  e = Tanh(d)  u = MatMul(e, t)
    w = Add(r, u)  y = MatMul(w, wy)
}"""
TEXTS = {"residual": RESIDUAL, "biases": BIASES, "chain": CHAIN}
TEXTS |= {"remade": REMADE, "sequence": SEQUENCE, "branches": BRANCHES, "shared": SHARED}


def small_graph(name: str) -> ir.Model:
    weights = {part: graphs.normal(24, 24) + index / 9 for index, part in enumerate(("wq", "wk", "wo", "wg", "wd"))}
    weights |= {"wy": graphs.normal(24, 24).T, "b": graphs.normal(24), "table": graphs.normal(9, 24)}
    weights |= {"small": graphs.normal(8, 8), "thirds": np.array(8), "first": np.array(0), "second": np.array(1)}
    return graphs.build(TEXTS[name], opset=21, **weights, last=np.array([-1]))
