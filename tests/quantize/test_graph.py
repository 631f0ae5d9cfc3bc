"""Linears are found or refused with a reason, and what flows through the segments is what the whole graph computes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch

from compressor.decoder import Feeds
from compressor.errors import RequestError
from compressor.quantize import graph
from compressor.quantize.graph import Flow, Linear, find_linears, segments
from compressor.quantize.qtensor import Grid
from compressor.quantize.rtn import RoundToNearest
from compressor.session import load_model, save_model
from tests import decoders, graphs, laws
from tests.decoders import Exported

# --- linears ---------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize(
    "nodes",
    [
        "y = MatMul(w, x)",  # the constant stands on the left
        "c = MatMul(w, w)  y = MatMul(x, c)",  # a matrix that is computed: folding comes before us
        "t = Transpose<perm = [0, 1]>(w)  y = MatMul(x, t)",
        "h = Cast<to = 11>(x)  d = MatMul(h, double)  y = Cast<to = 1>(d)",
        "y = MatMul(x, default)",  # the caller may pass another
        "y = MatMul(x, x)",
        "y = Gemm<transA = 1>(x, w)",
        "y = Gemm<alpha = 0.5>(x, w)",
        "y = Gemm<beta = 2.0>(x, w, b)",
        "y = Gemm(x, w, x)",  # a bias that is computed
        "y = Gemm(x, w, w)",  # a bias for each row of the batch
    ],
)
def test_other_products_are_none(nodes: str) -> None:
    text = f"(float[8,8] x, float[8,8] default) => (float[8,8] y) {{ {nodes} }}"
    weights = {"w": graphs.normal(8, 8), "double": graphs.normal(8, 8, dtype=float)}
    assert find_linears(build(text, **weights, b=graphs.normal(8), default=graphs.normal(8, 8))) == ([], {})


@pytest.mark.parametrize(
    ("text", "exclude", "refused"),
    [
        ("y = MatMul(x, head)", ["lm_", "head"], {"head": "excluded by 'head'"}),
        ("h = MatMul(x, head)  y = MatMul(h, head)", [], {"head": "shared with MatMul"}),
        ("t = Transpose(head)  h = MatMul(x, t)  y = Add(h, head)", [], {"head": "shared with Add"}),
        ("t = Transpose(head)  h = MatMul(x, t)  y = Add(h, t)", [], {"head": "shared with Add"}),
    ],
)
def test_a_linear_is_left_alone_for_a_reason(text: str, exclude: Sequence[str], refused: Mapping[str, str]) -> None:
    model = build(f"(float[8,8] x) => (float[8,8] y) {{ {text} }}", head=graphs.normal(8, 8))
    assert find_linears(model, exclude) == ([], refused)


def test_a_tied_embedding_is_left_alone(exported: Callable[[str], Exported]) -> None:
    assert find_linears(graphs.tied_embedding()) == ([], {"table": "shared with Gather"})
    linears, refused = find_linears(exported("llama").graph())
    assert refused == {"lm_head.weight": "shared with Gather"}
    parts = [f"self_attn.{part}_proj" for part in "qkvo"] + [f"mlp.{part}_proj" for part in ("gate", "up", "down")]
    expected = [f"model.layers.{layer}.{part}.weight" for layer in (0, 1) for part in parts]
    assert [linear.name for linear in linears] == expected


# --- segments --------------------------------------------------------------------------------------------------------

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
TEXTS = {"residual": RESIDUAL, "biases": BIASES, "chain": CHAIN}
TEXTS |= {"remade": REMADE, "sequence": SEQUENCE, "branches": BRANCHES}


def small_graph(name: str) -> ir.Model:
    weights = {part: graphs.normal(24, 24) + index / 9 for index, part in enumerate(("wq", "wk", "wo", "wg", "wd"))}
    weights |= {"wy": graphs.normal(24, 24).T, "b": graphs.normal(24), "table": graphs.normal(9, 24)}
    weights |= {"small": graphs.normal(8, 8), "thirds": np.array(8), "first": np.array(0), "second": np.array(1)}
    return build(TEXTS[name], **weights, last=np.array([-1]))


def small_batches(model: ir.Model) -> list[Feeds]:
    """Five rows, and a last batch of two."""
    feeds = laws.feeds_for(model, free_dimension=5)
    return [feeds, {name: array[:2] if array.ndim else array for name, array in feeds.items()}]


def decoder_batches(decoder: Exported) -> list[Feeds]:
    """Prompts with padding on either side, and a last batch of fewer."""
    sizes, padded = decoder.runner.decoder, np.ones((3, 9), np.int64)
    padded[0, :4], padded[1, -2:] = 0, 0
    return [sizes.feeds(decoders.tokens(3, 9), padded), sizes.feeds(decoders.tokens(2, 9))]


def replaced(model: ir.Model, linears: Sequence[Linear], weights: Mapping[str, torch.Tensor]) -> ir.Model:
    """A copy with other weights, float32 [in, out], in the place of its own."""
    copy = model.clone()
    for linear in linears:
        stored = weights[linear.name].T if linear.transposed else weights[linear.name]
        copy.graph.initializers[linear.name].const_value = ir.tensor(stored.contiguous().numpy(), name=linear.name)
    return copy


def values_in(model: ir.Model, names: set[str], feeds: Feeds) -> Feeds:
    """What the whole graph computes for some of its values, inputs among them."""
    tapped = [value for node in model.graph for value in node.outputs if value.name in names]
    model.graph.outputs.extend(value for value in tapped if not value.is_graph_output())
    return {**feeds, **laws.run(model, feeds)}


def check_flow(model: ir.Model, batches: Sequence[Feeds], weights: Mapping[str, torch.Tensor] | None = None) -> None:
    """The x of every group is the whole graph's, with the weights that it was told to flow on with."""
    linears, _ = find_linears(model, ["lm_head"])
    weights = weights or {linear.name: linear.read() for linear in linears}
    names = {str(linear.x.name) for linear in linears}
    expected = [values_in(replaced(model, linears, weights), names, feeds) for feeds in batches]
    flow = Flow(batches, dtype=torch.float32, device=torch.device("cpu"))
    for segment in segments(model, linears):
        flowing = list(flow.run(segment))
        for x, whole in zip(flowing, expected, strict=True):
            reference = whole[str(segment.x.name)]
            # The same float32 sums in another order, through two layers: 2e-6 of the largest value was seen.
            close = {"rtol": 0, "atol": 2e-5 * np.abs(reference).max()}
            reference = reference.reshape(-1, segment.width)
            real = whole.get("attention_mask", np.ones(len(reference))).astype(bool)  # padding is no statistic
            np.testing.assert_allclose(x, reference[real.flatten()], **close, err_msg=str(segment.x.name))
            assert x.shape[1] == segment.width
        flow.resume(segment, [weights[linear.name] for linear in segment.linears])


def rounded(model: ir.Model) -> dict[str, torch.Tensor]:
    """Three bits: far enough from the weights that no tolerance could hide them."""
    solver = RoundToNearest(Grid(3, "absmax"), 16)
    return {linear.name: solver.solve(linear.read()).dequantize() for linear in find_linears(model)[0]}


def test_data_that_the_graph_does_not_run_on_is_a_wrong_request() -> None:
    text = "(int64[N] i) => (float[N,4] y) { e = Gather(table, i)  y = MatMul(e, w) }"
    model = graphs.build(text, opset=21, table=graphs.normal(5, 4), w=graphs.normal(4, 4))
    (segment,) = segments(model, find_linears(model)[0])
    flow = Flow([{"i": np.array([5])}], dtype=torch.float32, device=torch.device("cpu"))
    with pytest.raises(
        RequestError, match=r"^calibration: the graph does not run on it: .*indices element out of data"
    ):
        next(flow.run(segment))


@pytest.mark.parametrize("name", TEXTS)
def test_the_flow_is_the_graph(name: str) -> None:
    model = small_graph(name)
    check_flow(model, small_batches(model))


@pytest.mark.parametrize("name", TEXTS)
def test_the_flow_with_rounded_weights_is_the_graph_with_rounded_weights(name: str) -> None:
    model = small_graph(name)
    check_flow(model, small_batches(model), rounded(model))


@pytest.mark.parametrize("remade_below", [0, graph.REMADE_BELOW_BYTES, 1 << 30])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_the_flow_of_a_decoder(
    name: str, remade_below: int, exported: Callable[[str], Exported], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is carried and whatever is made again."""
    monkeypatch.setattr(graph, "REMADE_BELOW_BYTES", remade_below)
    decoder = exported(name)
    check_flow(decoder.graph(), decoder_batches(decoder))
    check_flow(decoder.graph(), decoder_batches(decoder), rounded(decoder.graph()))


def test_linears_of_one_input_are_one_group(exported: Callable[[str], Exported]) -> None:
    model = exported("llama").graph()
    plan = segments(model, find_linears(model, ["lm_head"])[0])
    assert [len(segment.linears) for segment in plan] == [3, 1, 2, 1] * 2  # q k v, o, gate up, down
    assert all(linear.x is segment.x for segment in plan for linear in segment.linears)


@pytest.mark.parametrize("name", TEXTS)
def test_nothing_is_carried_beyond_its_last_reader(name: str) -> None:
    model = small_graph(name)
    plan = segments(model, find_linears(model)[0])
    fed = {value.name for value in model.graph.inputs}  # the caller's, and kept
    carried = {value for segment in plan for value in segment.outputs}
    assert carried <= {value for segment in plan for value in segment.last_used}
    for at, segment in enumerate(plan):
        later = {value for other in plan[at + 1 :] for value in (*other.inputs, other.x.name)}
        assert not segment.last_used & later - fed


def test_bfloat16_flows_close_by() -> None:
    model = small_graph("residual")
    plan = segments(model, find_linears(model)[0])
    (batch, *_) = small_batches(model)
    reference = values_in(model.clone(), {"u"}, batch)["u"]
    flow = Flow([batch], dtype=torch.bfloat16, device=torch.device("cpu"))
    for segment in plan:
        (x,) = flow.run(segment)
        flow.resume(segment, [linear.read() for linear in segment.linears])
    assert x.dtype == torch.bfloat16
    # Four products of inputs and weights with 8 bits of mantissa, each 2^-8 off: 2 % of the largest value.
    np.testing.assert_allclose(x.float(), reference.reshape(x.shape), rtol=0, atol=0.02 * np.abs(reference).max())
