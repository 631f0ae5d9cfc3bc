"""Inputs are made up at two sizes; what was compared at fewer, or not at all, is said and fails under --strict."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from compressor.errors import RequestError
from compressor.graph import probe
from compressor.graph.session import save_model
from passes import run_passes
from passes.noop_elimination import NoopElimination
from tests import graphs
from tests.conftest import Outcome

ANY_SIZE = "(float[N,4] x) => (float[N,4] y) { y = Exp(x) }"
NO_FREE_AXIS = "(float[2,4] x) => (float[2,4] y) { y = Exp(x) }"
ONE_SIZE = "(float[N,4] x) => (float[2,4] y) { y = Reshape(x, shape) }"
NO_SIZE = "(float[N,4] x) => (float[7,4] y) { y = Reshape(x, shape) }"


def reshaping(text: str, rows: int) -> ir.Model:
    return graphs.build(text, shape=np.array([rows, 4], np.int64))


def test_free_axes_are_tried_at_two_sizes() -> None:
    found = probe.find(graphs.build(ANY_SIZE))
    assert found is not None
    first, second = (call["x"].shape for call in found.calls)
    assert first != second
    assert not found.one_size


def test_axes_of_one_name_have_one_size() -> None:
    """The second axis of h is the first of x: at any two sizes the graph runs."""
    found = probe.find(graphs.build("(float[N,L] x, float[2,N,L] h) => (float[2,N,L] y) { y = Add(x, h) }"))
    assert found is not None
    assert len(found.calls) == 2
    for call in found.calls:
        assert call["h"].shape == (2, *call["x"].shape)


def test_a_graph_without_a_free_axis_has_one_size_and_nothing_to_say() -> None:
    found = probe.find(graphs.build(NO_FREE_AXIS))
    assert found is not None
    assert (len(found.calls), found.one_size) == (1, False)


@pytest.mark.parametrize(
    ("text", "rows", "line"),
    [(ONE_SIZE, 2, "outputs compared at one size of the free axes"), (NO_SIZE, 7, "outputs not compared")],
)
def test_a_weaker_comparison_is_said_and_fails_under_strict(
    text: str, rows: int, line: str, tmp_path: Path, compress: Callable[..., Outcome]
) -> None:
    save_model(reshaping(text, rows), tmp_path / "model.onnx")
    outcome = compress("optimize", tmp_path / "model.onnx", "-o", tmp_path / "out", "--strict")
    assert (outcome.code, line in outcome.err) == (1, True)
    assert compress("optimize", tmp_path / "model.onnx", "-o", tmp_path / "loose").code == 0


def test_sequences_maps_and_nothing_are_compared_by_their_arrays() -> None:
    parts = graphs.build("(float[2,4] x) => (seq(float[K,4]) s) { s = SplitToSequence<axis = 0>(x) }")
    found = probe.find(parts)
    assert found is not None
    assert set(found(parts)) == {"s of call 0, item 0", "s of call 0, item 1"}
    assert dict(probe.arrays("m", [{3: 0.5, 7: 0.25}])).keys() == {"m, item 0, keys", "m, item 0, values"}
    assert not dict(probe.arrays("nothing", None))


def test_an_unseeded_draw_hides_no_other_output() -> None:
    """What is drawn anew at each run has no value to compare; the rest is optimized as ever."""
    model = graphs.build("(float[N] x) => (float[N] d, float[N] y) { d = Bernoulli(x)  a = Identity(x)  y = Relu(a) }")
    found = probe.find(model)
    assert found is not None
    _, (outcome,) = run_passes(model, [NoopElimination()], found)
    assert (outcome.modified, outcome.rolled_back) == (True, None)


def test_sizes_that_no_memory_holds_are_not_tried() -> None:
    """Five axes of 576 would be 253 terabytes."""
    five = "(float[A,B,C,D,E] x) => (float[7,7] y) { y = Reshape(x, shape) }"
    assert probe.find(graphs.build(five, shape=np.array([7, 7]))) is None


def test_a_graph_in_bfloat16_is_asked_in_float32() -> None:
    """ONNX Runtime's CPU has no Relu for it."""
    text = "(bfloat16[N,2] x) => (bfloat16[N,2] y) { a = Identity(x)  y = Relu(a) }"
    found, model = probe.find(graphs.build(text)), graphs.build(text)
    assert found is not None
    _, (outcome,) = run_passes(model, [NoopElimination()], found)
    assert (outcome.modified, outcome.worst_difference) == (True, 0.0)
    other = found(graphs.build(text.replace("Relu", "Neg")))
    assert any(not np.array_equal(found(model)[name], other[name]) for name in other)


def test_an_input_larger_than_memory_is_not_made() -> None:
    assert probe.find(graphs.build("(float[100000,100000] x) => (float[100000,100000] y) { y = Neg(x) }")) is None


def test_a_graph_that_runs_on_no_input_of_ours_is_still_loaded() -> None:
    model = graphs.build(NO_SIZE, shape=np.array([7, 4]))
    broken = graphs.build("(float[N,4] x) => (float[7,4] y) { y = NoSuchOperator(x) }")
    assert probe.Probe(())(model) == {}
    with pytest.raises(RequestError, match="NoSuchOperator"):
        probe.Probe(())(broken)


def test_strings_are_made_up() -> None:
    found = probe.find(graphs.build("(string[N] x) => (string[N] y) { y = Identity(x) }"))
    assert found is not None
    assert all(isinstance(word, str) for call in found.calls for word in call["x"])


def test_rows_of_masks_see_something_where_that_is_asked_for() -> None:
    """Half types hide no deeper than their range, so that a row of padding alone is compared in float32."""
    text = "(int64[N,4] attention_mask, int64[N,4] ids) => (int64[N,4] y) { y = Add(attention_mask, ids) }"
    found = probe.find(graphs.build(text), seed=6)
    assert found is not None
    kept = np.stack([call["attention_mask"].any(axis=1).all() for call in found.calls])
    assert not kept.all(), "the numbers that are drawn hold no row of padding: the test shows nothing"
    seen = found.where_rows_see()
    for call, before in zip(seen.calls, found.calls, strict=True):
        assert (call["attention_mask"][:, 0] == 1).all()
        assert (call["attention_mask"][:, 1:] == before["attention_mask"][:, 1:]).all()
        assert (call["ids"] == before["ids"]).all()


def test_a_state_has_the_batch_of_the_input() -> None:
    """No axis has a name, and 2 rows of 64 beside states for 64 rows run nowhere."""
    text = """(float[N,W] x, float[2,M,8] h) => (float[A,9] y) {
        column = Gather<axis = 1>(x, far)  last = Gather(h, one)  y = Concat<axis = 1>(column, last)
    }"""
    model = graphs.build(text, one=np.array(1), far=np.array([20]))
    for value in model.graph.inputs:
        value.shape = ir.Shape([size if isinstance(size, int) else None for size in value.shape])
    found = probe.find(model)
    assert found is not None
    assert not found.one_size
    assert all(feeds["x"].shape[0] == feeds["h"].shape[1] for feeds in found.calls)


def test_floats_are_normal_and_integers_are_bits() -> None:
    feeds = probe.made_up(
        graphs.build("(float[200,500] x, int64[200,50] i) => (float[200,500] y) { y = Exp(x) }"), (2, 2), 0
    )
    x, i = feeds["x"], feeds["i"]
    assert (x.dtype, i.dtype) == (np.float32, np.int64)
    # 100 000 draws: the mean is off by 1/316 at one sigma, the variance by 1/224; five sigmas.
    assert abs(x.mean()) < 5 / 316
    assert abs(x.var() - 1) < 5 / 224
    assert 3.5 < np.abs(x).max() < 6
    assert abs(np.corrcoef(x[:, :-1].ravel(), x[:, 1:].ravel())[0, 1]) < 5 / 316
    assert set(np.unique(i)) == {0, 1}
    assert np.array_equal(
        probe.made_up(graphs.build(ANY_SIZE), (2, 2), 7)["x"], probe.made_up(graphs.build(ANY_SIZE), (2, 2), 7)["x"]
    )


@pytest.mark.parametrize("kind", ["float", "int64", "bool", "string"])
def test_a_single_value_is_an_array_too(kind: str) -> None:
    found = probe.find(graphs.build(f"({kind} x) => ({kind} y) {{ y = Identity(x) }}"))
    assert found is not None
    assert isinstance(found.calls[0]["x"], np.ndarray)
    assert found.calls[0]["x"].shape == ()
