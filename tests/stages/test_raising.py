"""Graphs of opsets that have no DequantizeLinear for the weights they are to get."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from compressor.graph.session import load_model, open_session, save_model
from tests import graphs
from tests.conftest import Outcome

CONVOLUTION = "(float[N,64,4,4] x) => (float[N,64,2,2] y) { y = Conv(x, w) }"
PRODUCT = "(float[N,64] x) => (float[N,64] y) { h = MatMul(x, w)  y = Relu(h) }"


def weight(text: str) -> np.ndarray:
    return graphs.normal(64, 64, 3, 3) if "Conv" in text else graphs.normal(64, 64)


@pytest.mark.parametrize(
    ("text", "opset", "target", "setting", "became"),
    [
        (CONVOLUTION, 11, "cpu", "bits=4", 21),
        (CONVOLUTION, 17, "cpu", "bits=8", 21),
        (CONVOLUTION, 11, "cpu", "{bits: 8, group_size: -1}", 13),
        (CONVOLUTION, 17, "cpu", "{bits: 8, group_size: tensor}", 17),
        (PRODUCT, 17, "generic", "bits=4", 21),
        (PRODUCT, 11, "cpu", "bits=4", 11),
    ],
)
def test_the_opset_is_raised_as_far_as_the_weights_need(
    text: str, opset: int, target: str, setting: str, became: int, tmp_path: Path, compress: Callable[..., Outcome]
) -> None:
    model = graphs.build(text, opset, 8, w=weight(text))
    save_model(model, tmp_path / "a.onnx")
    field = f"quantize.rtn={setting}" if setting[0] == "{" else f"quantize.rtn.{setting}"
    ended = compress(
        "quantize", tmp_path / "a.onnx", "-o", tmp_path / "q", "--method", "rtn", "--for", target, "--set", field
    )
    assert ended.code == 0, ended.err
    assert load_model(tmp_path / "q" / "model.onnx").opset_imports[""] == became
    feeds = {"x": graphs.normal(2, *(one for one in model.graph.inputs[0].shape[1:]))}  # type: ignore[index]
    expected, found = (
        open_session(path, "exact").run(None, feeds)[0] for path in (tmp_path / "a.onnx", tmp_path / "q" / "model.onnx")
    )
    assert np.abs(found - expected).max() < 0.25 * np.abs(expected).max()  # half a step of 4 bits, and sums of it


def test_a_graph_that_cannot_be_compared_is_refused(tmp_path: Path, compress: Callable[..., Outcome]) -> None:
    """It runs on 7 rows alone, which nobody guesses."""
    text = CONVOLUTION.replace("y = Conv(x, w)", "seven = Reshape(x, shape)  y = Conv(seven, w)")
    model = graphs.build(text, 17, 8, w=weight(CONVOLUTION), shape=np.array([7, 64, 4, 4]))
    save_model(model, tmp_path / "a.onnx")
    ended = compress("quantize", tmp_path / "a.onnx", "-o", tmp_path / "q", "--method", "rtn")
    assert ended.code == 2
    assert "opset 17 has no DequantizeLinear for these weights, 21 is the first that has" in ended.err
