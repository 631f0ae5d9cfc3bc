"""Names of axes become sizes, sums of them too, and what stays free has a range an engine can be built for."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from compressor.errors import RequestError
from compressor.export import static
from compressor.graph.session import load_model

STEP = """
    <ir_version: 10, opset_import: ["": 21]>
    step (float[batch_size, past_sequence_length] past, float[batch_size, sequence_length] now,
          float[batch_size, total_sequence_length] mask)
      => (float[batch_size, total] all)
    { joined = Concat<axis = 1>(past, now)
      all = Mul(joined, mask) }"""


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    path = tmp_path / "step.onnx"
    onnx.save(onnx.parser.parse_model(STEP), path)
    return path


def shapes(path: Path) -> dict[str, list[int | str]]:
    values = load_model(path).graph.inputs
    return {str(v.name): [size if isinstance(size, int) else str(size) for size in v.shape] for v in values}


def test_axes_that_are_named_are_fixed_and_others_stay(graph: Path) -> None:
    profile = static.fix(graph, {"batch_size": 2})
    assert shapes(graph)["past"] == [2, "past_sequence_length"]
    assert profile["past"] == {"min": [2, 0], "opt": [2, 128], "max": [2, 512]}
    assert profile["now"] == {"min": [2, 1], "opt": [2, 128], "max": [2, 512]}


def test_the_length_of_a_mask_is_the_sum_of_past_and_present(graph: Path) -> None:
    assert static.fix(graph, {"batch_size": 1, "past_sequence_length": 7, "sequence_length": 1}) == {}
    assert shapes(graph) == {"past": [1, 7], "now": [1, 1], "mask": [1, 8]}


def test_a_model_reads_no_more_than_it_was_made_for(graph: Path) -> None:
    assert static.fix(graph, {}, longest=64)["now"] == {"min": [1, 1], "opt": [1, 64], "max": [8, 64]}


def test_an_unknown_axis_is_refused(graph: Path) -> None:
    known = static.axes(load_model(graph))
    static.refuse_unknown({"batch_size": 1}, known)
    with pytest.raises(RequestError, match=r"no input has an axis 'batch'\. Did you mean 'batch_size'\?"):
        static.refuse_unknown({"batch": 1}, known)
    with pytest.raises(RequestError, match=r"The free axes are none"):
        static.refuse_unknown({"batch": 1}, [])
