"""Inputs are made up at two sizes; what was compared at fewer, or not at all, is said and fails under --strict."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from compressor import probe
from compressor.session import save_model
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
