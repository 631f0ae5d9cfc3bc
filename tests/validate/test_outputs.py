"""Graphs that are no decoders: outputs compared call by call, and labels told right from wrong."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from compressor.data.samples import Samples
from compressor.errors import RequestError
from compressor.graph.session import save_model
from compressor.recipe.limits import Accuracy, Agreement
from compressor.report.report import Measurement
from compressor.validate import accuracy, outputs
from compressor.validate.subject import Subject
from tests import graphs

CALLS = [{"x": np.eye(3, dtype=np.float32)}, {"x": -np.eye(3, dtype=np.float32)[:1]}]
IDENTITY = np.eye(3, dtype=np.float32)
LIMITS = Agreement(max_difference=1e-6, min_cosine=0.999999, min_top1=1.0)


@pytest.fixture
def subject(tmp_path: Path) -> Callable[..., Subject]:
    """subject(weight): y = x @ weight, as it lies on disk."""
    count = iter(range(100))

    def make(weight: np.ndarray, *, reference: bool = False) -> Subject:
        path = tmp_path / f"{next(count)}.onnx"
        width = weight.shape[1]
        text = f"(float[N,3] x) => (float[N,{width}] y, bool[N,{width}] sign) {{ y = MatMul(x, w) sign = Less(y, o) }}"
        save_model(graphs.build(text, opset=21, w=weight.astype(np.float32), o=np.float32(0)), path)
        return Subject(path, is_reference=reference)

    return make


def values(found: list[Measurement]) -> dict[str, float]:
    return {one.name: one.value for one in found}


@pytest.mark.parametrize("factor", [1.01, math.nan, math.inf])
def test_passes_on_equal_graphs_and_fails_on_one_spoiled_weight(factor: float, subject: Callable[..., Subject]) -> None:
    reference, spoiled = subject(IDENTITY, reference=True), IDENTITY.copy()
    assert all(one.passed for one in outputs.measure(subject(IDENTITY), reference, CALLS, LIMITS))
    spoiled[1, 1] *= factor
    difference, *_ = outputs.measure(subject(spoiled), reference, CALLS, LIMITS)
    assert not difference.passed
    assert difference.note == "y of call 0"


@pytest.mark.parametrize(
    ("type_", "node", "alike", "other"),
    [
        ("seq(float[N,M])", "SequenceConstruct(x, k)", "float[1] k = {1}", "float[1] k = {2}"),
        ("seq(float[N,M])", "SequenceConstruct(x, k)", "float[1] k = {1}", "float[2] k = {1, 1}"),
        ("seq(float[N,M])", "SplitToSequence<axis = 0>(x, k)", "int64[2] k = {1, 2}", "int64[1] k = {3}"),
        ("string[2]", "Identity(k)", 'string[2] k = {"no", "yes"}', 'string[2] k = {"no", "no"}'),
    ],
)
def test_sequences_are_compared_piece_by_piece_and_text_by_letters(
    type_: str, node: str, alike: str, other: str, tmp_path: Path
) -> None:
    def subject(name: str, weight: str) -> Subject:
        model = graphs.build(f"(float[3,3] x) => ({type_} y) <{weight}> {{ y = {node} }}", opset=21)
        save_model(model, tmp_path / name)
        return Subject(tmp_path / name, is_reference=name == "reference")

    reference, calls = subject("reference", alike), [{"x": IDENTITY}]
    assert outputs.measure(subject("alike", alike), reference, calls, LIMITS)[0].passed
    assert not outputs.measure(subject("other", other), reference, calls, LIMITS)[0].passed


def test_distances_by_hand(subject: Callable[..., Subject]) -> None:
    """The second row turns from [0, 1, 0] to [1, 1, 0]: 45 degrees; a tie goes to the first, which is another place."""
    turned = IDENTITY.copy()
    turned[1, 0] = 1
    found = values(outputs.measure(subject(turned), subject(IDENTITY, reference=True), CALLS, LIMITS))
    assert found == {
        "output difference": 1.0,
        "output cosine": pytest.approx(math.sqrt(0.5)),
        "output top-1": pytest.approx(3 / 4),
    }


def test_rows_of_zeros_agree_with_zeros_alone(subject: Callable[..., Subject]) -> None:
    nothing = np.zeros((3, 3))
    for ours, cosine in ((nothing, 1.0), (IDENTITY, 0.0)):
        found = values(outputs.measure(subject(ours), subject(nothing, reference=True), CALLS, LIMITS))
        assert found["output cosine"] == cosine


def test_without_calls_nothing_passes(subject: Callable[..., Subject]) -> None:
    (found,) = outputs.measure(subject(IDENTITY), subject(IDENTITY, reference=True), (), LIMITS)
    assert not found.passed


# --- accuracy --------------------------------------------------------------------------------------------------------


def labelled(*labels: int) -> Samples:
    """Rows of the identity in two calls; the label of row i is i where the graph is right."""
    rows = np.eye(3, dtype=np.float32)[[0, 1, 2, 0]]
    return Samples(({"x": rows[:3]}, {"x": rows[3:]}), {"count": 4}, np.array(labels))


def test_accuracy_by_hand(subject: Callable[..., Subject]) -> None:
    swapped = IDENTITY[[1, 0, 2]]
    ours, theirs = subject(swapped), subject(IDENTITY, reference=True)
    found = accuracy.measure(ours, theirs, labelled(0, 1, 2, 0), Accuracy(source="", max_drop=0.5, min_value=0.3))
    assert [(one.value, one.reference, one.passed) for one in found] == [(0.25, 1.0, False), (0.75, None, False)]
    found = accuracy.measure(ours, ours, labelled(1, 0, 2, 0), Accuracy(source="", max_drop=0.0, min_value=0.75))
    assert [(one.value, one.passed) for one in found] == [(0.75, True), (0.0, True)]


def test_a_score_that_is_no_number_is_wrong(subject: Callable[..., Subject]) -> None:
    broken = IDENTITY.copy()
    broken[0, 0] = math.nan  # every product of its row and column is none
    assert accuracy.of(subject(broken), labelled(0, 1, 2, 0)) < 1


def test_a_graph_without_scores_has_no_accuracy(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    save_model(graphs.build("(float[N,3] x) => (float y) { y = ReduceSum<keepdims = 0>(x) }", opset=21), path)
    with pytest.raises(RequestError, match=r"first output is \(\); accuracy reads \[rows, scores\]"):
        accuracy.of(Subject(path), labelled(0, 1, 2, 0))


def test_graphs_of_other_shapes_are_infinitely_far(subject: Callable[..., Subject]) -> None:
    found = values(outputs.measure(subject(IDENTITY[:, :2]), subject(IDENTITY, reference=True), CALLS, LIMITS))
    assert found == {"output difference": math.inf, "output cosine": -1.0, "output top-1": 0.0}


def test_fp8_is_run_as_written(tmp_path: Path) -> None:
    """ONNX Runtime's CPU optimizer would make an integer convolution of it, which takes no float8."""
    text = """(float[N,1,4,4] x) => (float[N,1,3,3] y) {
        q = QuantizeLinear(x, one, zero)  d = DequantizeLinear(q, one, zero)  w = DequantizeLinear(c, one, zero)
        z = Conv(d, w)  r = QuantizeLinear(z, one, zero)  y = DequantizeLinear(r, one, zero)
    }"""
    zero, codes = (ir.tensor(np.ones(shape, np.float32)).numpy() for shape in ((), (1, 1, 2, 2)))
    import ml_dtypes

    kind = ml_dtypes.float8_e4m3fn
    model = graphs.build(text, opset=21, one=np.float32(1), zero=(zero * 0).astype(kind), c=codes.astype(kind))
    path = tmp_path / "model.onnx"
    save_model(model, path)
    (y,) = Subject(path).session.run(None, {"x": np.ones((1, 1, 4, 4), np.float32)})
    np.testing.assert_array_equal(y, np.full((1, 1, 3, 3), 4))
