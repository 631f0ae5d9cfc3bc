"""A stack of matrices is taken apart into products that compute the same, each with codes of its own."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from compressor import pipeline, sources
from compressor.graph.session import load_model, save_model
from compressor.quantize.flow.linears import find_linears
from compressor.quantize.stacks import unstack
from compressor.recipe import recipe
from compressor.shelf import Shelf
from tests import architectures, graphs, laws

# Experts as exporters write them: all read every token, then each what it made of it.
TEXT = """(float[T,8] x) => (float[3,T,6] y) {
    u = Unsqueeze(x, first)  h = MatMul(u, up)  r = Relu(h)  y = MatMul(r, down)
}"""
TURNED = TEXT.replace("y = MatMul(r, down)", "t = Transpose<perm = [0,2,1]>(down)  y = MatMul(r, t)")
NAMES = ["up.0", "up.1", "up.2", "down.0", "down.1", "down.2"]
X = {"x": graphs.normal(5, 8)}


def experts(text: str = TEXT, opset: int = 21) -> ir.Model:
    down = graphs.normal(3, 10, 6)
    stored = np.ascontiguousarray(down.transpose(0, 2, 1)) if text is TURNED else down
    return graphs.build(text, opset=opset, first=np.array([0]), up=graphs.normal(3, 8, 10), down=stored)


@pytest.mark.parametrize("opset", [13, 18, 21])
@pytest.mark.parametrize("text", [TEXT, TURNED], ids=["as multiplied", "transposed"])
def test_each_matrix_is_a_linear_and_the_outputs_stay(text: str, opset: int) -> None:
    made = experts(text, opset)
    unstack(made)
    found, refused = find_linears(made)
    assert ([linear.name for linear in found], refused) == (NAMES, {})
    assert not {"up", "down"} & made.graph.initializers.keys()
    onnx.checker.check_model(laws.to_bytes(made), full_check=True)
    assert laws.interface(made) == laws.interface(experts(text, opset))
    # The same sums of ten products, in an order that the batched product may choose otherwise.
    np.testing.assert_allclose(laws.run(made, X)["y"], laws.run(experts(text, opset), X)["y"], rtol=1e-5, atol=1e-5)


def test_matrices_stay_in_the_file_that_holds_the_stack(tmp_path: Path) -> None:
    up = graphs.normal(3, 64, 32)
    text = "(float[1,T,64] x) => (float[3,T,32] y) { y = MatMul(x, up) }"
    save_model(graphs.build(text, opset=21, up=up), tmp_path / "model.onnx")
    model = load_model(tmp_path / "model.onnx")
    unstack(model)
    found, _ = find_linears(model)
    assert all(isinstance(linear.weight.const_value, ir.ExternalTensor) for linear in found)
    for linear, matrix in zip(found, up, strict=True):
        np.testing.assert_array_equal(linear.read(), matrix)


REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("(float[E,T,8] x) => (float[E,T,6] y) { y = MatMul(x, w) }", {}),  # one or three
    ("(float[T,8] x) => (float[3,T,6] y) { y = MatMul(x, w) }", {}),  # broadcast by rank
    ("(float[3,T,8] x) => (float[3,T,6] y) { y = MatMul(x, w) }", {"opset": 12}),
]


@pytest.mark.parametrize(("text", "options"), REFUSED, ids=["unknown", "rank", "opset"])
def test_what_is_not_taken_apart_is_said(text: str, options: dict[str, Any]) -> None:
    model = graphs.build(text, w=graphs.normal(3, 8, 6), **{"opset": 21, **options})
    unstack(model)
    assert find_linears(model) == ([], {"w": "a stack of matrices that was not taken apart"})


def test_a_router_keeps_its_weight() -> None:
    text = """(float[T,8] x) => (float[T,1] y, int64[T,1] i) {
        s = MatMul(x, gate)  p = Softmax(s)  y, i = TopK(p, one)
    }"""
    _, refused = find_linears(graphs.build(text, opset=21, gate=graphs.normal(8, 3), one=np.array([1])))
    assert refused == {"gate": "a router: rounded scores choose other experts"}


def test_the_experts_of_a_mixture_are_packed(tmp_path: Path) -> None:
    """Most of such a model is experts; left as floats they would be most of the package too."""
    checkpoint = architectures.write("mixtral", tmp_path / "checkpoint")
    options = recipe.build({"model": str(checkpoint), "target": "cpu", "quantize": {"rtn": {"bits": 8}}})
    shelf = Shelf(tmp_path / "stages")
    optimized = pipeline.optimize(pipeline.export(sources.find(str(checkpoint)), options, shelf), options, shelf)
    quantized = pipeline.quantize(optimized, options, shelf)
    packaged = pipeline.package(optimized, quantized, options, shelf)
    packed = Counter(node.op_type for node in load_model(packaged.model).graph)["MatMulNBits"]
    assert packed == 2 * (4 + 2 * 4)  # two layers: q, k, v, o, and two products of four experts
    assert sorted(quantized.facts["left_alone"]) == [
        "lm_head.weight",
        "model.layers.0.mlp.gate.weight",
        "model.layers.1.mlp.gate.weight",
    ]
