"""Linears are found, read as they are stored, or refused with a reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from compressor.graph.session import load_model, save_model
from compressor.quantize.flow.linears import find_linears
from tests import graphs
from tests.decoders import Exported


def build(text: str, **weights: np.ndarray) -> ir.Model:
    return graphs.build(text, opset=21, **weights)


@pytest.mark.parametrize(
    ("product", "stored", "bias"),
    [
        ("MatMul(x, w)", (8, 6), False),
        ("MatMul(x, t)", (6, 8), False),
        ("Gemm(x, w)", (8, 6), False),
        ("Gemm<transB = 1>(x, w)", (6, 8), False),
        ("Gemm<transB = 1>(x, w, b)", (6, 8), True),
        ("Gemm<alpha = 1.0, beta = 1.0>(x, w, b)", (8, 6), True),
    ],
)
def test_a_product_with_a_constant_matrix_is_a_linear(product: str, stored: tuple[int, int], bias: bool) -> None:
    transpose = "t = Transpose<perm = [1, 0]>(w)" if "t)" in product else ""
    text = f"(float[N,8] x) => (float[N,6] y) {{ {transpose} y = {product} }}"
    weight = graphs.normal(*stored)
    ((linear,), refused) = find_linears(build(text, w=weight, b=graphs.normal(6)))
    assert (linear.name, linear.x.name, linear.y.name, linear.shape, refused) == ("w", "x", "y", (8, 6), {})
    np.testing.assert_array_equal(linear.read(), weight if stored == (8, 6) else weight.T)
    found = linear.read_bias()
    assert (found is not None) == bias
    assert found is None or found.tolist() == graphs.normal(6).tolist()


@pytest.mark.parametrize("product", ["MatMul(x, w)", "Gemm<transB = 1>(x, w)"])
def test_a_weight_in_a_file_is_read_as_it_is_and_never_written(product: str, tmp_path: Path) -> None:
    weight = graphs.normal(64, 64)
    save_model(build(f"(float[N,64] x) => (float[N,64] y) {{ y = {product} }}", w=weight), tmp_path / "model.onnx")
    ((linear,), _) = find_linears(load_model(tmp_path / "model.onnx"))
    before, read = (tmp_path / "model.onnx.data").read_bytes(), linear.read()
    np.testing.assert_array_equal(read, weight.T if linear.transposed else weight)
    read.zero_()
    assert (tmp_path / "model.onnx.data").read_bytes() == before
    np.testing.assert_array_equal(linear.read(), weight.T if linear.transposed else weight)


GEMM = "a Gemm with transA, alpha, beta or another summand than a bias"


@pytest.mark.parametrize(
    ("nodes", "refused"),
    [
        ("y = MatMul(w, x)", {"w": "the left factor of a product"}),
        ("i = Identity(w)  y = MatMul(x, i)", {"w": "of MatMul, in a form that is not rounded"}),
        ("t = Transpose<perm = [0, 1]>(w)  y = MatMul(x, t)", {"w": "of MatMul, in a form that is not rounded"}),
        ("h = Cast<to = 11>(x)  d = MatMul(h, double)  y = Cast<to = 1>(d)", {"double": "of type double"}),
        ("y = MatMul(head, w)", {"head": "the left factor of a product", "w": "multiplied by constants alone"}),
        ("y = MatMul(x, default)", {}),  # the caller may pass another
        ("y = MatMul(x, x)", {}),
        ("y = Gemm<transA = 1>(x, w)", {"w": GEMM}),
        ("y = Gemm<alpha = 0.5>(x, w)", {"w": GEMM}),
        ("y = Gemm<beta = 2.0>(x, w, b)", {"w": GEMM}),
        ("y = Gemm(x, w, x)", {"w": GEMM}),  # a bias that is computed
        ("y = Gemm(x, w, w)", {"w": GEMM}),  # a bias for each row of the batch
        ('y = Einsum<equation = "ij,jk->ik">(x, w)', {"w": "of Einsum, in a form that is not rounded"}),
        ("y = Add(x, w)", {}),
    ],
)
def test_other_products_are_none_for_a_reason(nodes: str, refused: Mapping[str, str]) -> None:
    text = f"(float[8,8] x, float[8,8] default) => (float[8,8] y) {{ {nodes} }}"
    weights = {"w": graphs.normal(8, 8), "double": graphs.normal(8, 8, dtype=float), "head": graphs.normal(8, 8)}
    model = build(text, **weights, b=graphs.normal(8), default=graphs.normal(8, 8))
    assert find_linears(model) == ([], refused)


def test_weights_of_branches_and_of_recurrent_layers_are_named() -> None:
    text = """(float[8,8] x, bool[1] c) => (float[8,8] y) {
        y = If(c) <then_branch = g () => (float[8,8] t) { t = MatMul(x, w) },
                   else_branch = h () => (float[8,8] e) { e = Relu(x) }>
    }"""
    assert find_linears(build(text, w=graphs.normal(8, 8))) == ([], {"w": "inside an If, a Loop or a Scan"})
    text = "(float[5,N,8] x) => (float[5,1,N,4] y) { y = LSTM<hidden_size = 4>(x, w, r) }"
    linears, refused = find_linears(build(text, w=graphs.normal(1, 16, 8), r=graphs.normal(1, 16, 4)))
    assert (linears, refused) == ([], dict.fromkeys("wr", "of LSTM, in a form that is not rounded"))


@pytest.mark.parametrize(
    ("text", "exclude", "refused"),
    [
        ("y = MatMul(x, head)", ["lm_", "head"], {"head": "excluded by 'head'"}),
        ("t = Transpose(head)  h = MatMul(x, t)  y = MatMul(h, head)", [], {"head": "read in more than one way"}),
        ("h = Gemm(x, head)  y = Gemm<transB = 1>(h, head)", [], {"head": "read in more than one way"}),
        ("h = MatMul(x, head)  y = MatMul(head, h)", [], {"head": "shared with MatMul"}),
        ("t = Transpose(head)  h = MatMul(x, t)  y = Add(h, head)", [], {"head": "shared with Add"}),
        ("t = Transpose(head)  h = MatMul(x, t)  y = Add(h, t)", [], {"head": "shared with Add"}),
    ],
)
def test_a_linear_is_left_alone_for_a_reason(text: str, exclude: Sequence[str], refused: Mapping[str, str]) -> None:
    model = build(f"(float[8,8] x) => (float[8,8] y) {{ {text} }}", head=graphs.normal(8, 8))
    assert find_linears(model, exclude) == ([], refused)


@pytest.mark.parametrize(
    "nodes",
    [
        "h = MatMul(x, w)  r = Relu(h)  y = Gemm(r, w, b)",
        "t = Transpose(w)  h = MatMul(x, t)  r = Relu(h)  y = MatMul(r, t)",
        "t = Transpose(w)  h = MatMul(x, t)  r = Relu(h)  y = Gemm<transB = 1>(r, w, b)",
    ],
)
def test_a_weight_of_several_products_is_one_linear(nodes: str) -> None:
    model = build(f"(float[8,8] x) => (float[8,8] y) {{ {nodes} }}", w=graphs.normal(8, 8), b=graphs.normal(8))
    ((linear,), refused) = find_linears(model)
    assert refused == {}
    assert [one.y.name for one in linear.everywhere] == ["h", "y"]
    assert [x.name for x, _ in linear.inputs] == ["x", "r"]


def test_a_tied_embedding_is_left_alone(exported: Callable[[str], Exported]) -> None:
    assert find_linears(graphs.tied_embedding()) == ([], {"table": "shared with Gather"})
    linears, refused = find_linears(exported("llama").graph())
    assert refused == {"lm_head.weight": "shared with Gather"}
    parts = [f"self_attn.{part}_proj" for part in "qkvo"] + [f"mlp.{part}_proj" for part in ("gate", "up", "down")]
    expected = [f"model.layers.{layer}.{part}.weight" for layer in (0, 1) for part in parts]
    assert [linear.name for linear in linears] == expected
