"""Every point is measured on every side, and the rival's share is the ratio of the two."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from compressor import benchmark
from compressor.benchmark import Point, Sweep
from compressor.errors import RequestError
from compressor.graph.session import save_model
from compressor.validate.subject import Subject
from tests import graphs
from tests.conftest import Outcome
from tests.decoders import Exported


def saved(text: str, folder: Path, name: str = "model") -> Path:
    save_model(graphs.build(text), folder / f"{name}.onnx")
    return folder / f"{name}.onnx"


def test_a_graph_is_measured_at_every_batch_and_length(tmp_path: Path) -> None:
    side = Subject(saved("(float[B,L] x) => (float[B,L] y) { y = Exp(x) }", tmp_path))
    points = benchmark.measure({"": {"artifact": side}}, Sweep((1, 3), (2, 5), repeats=3))
    assert [(point.batch, point.length) for point in points] == [(1, 2), (1, 5), (3, 2), (3, 5)]
    assert all(0 < point.median_ms <= point.p95_ms for point in points)
    assert points[2].per_second == pytest.approx(3e3 / points[2].median_ms)


def test_a_decoder_has_prefill_and_decode(exported: Callable[[str], Exported]) -> None:
    points = benchmark.measure({"": {"artifact": Subject(exported("llama").path)}}, Sweep((2,), (8,), repeats=2))
    assert [point.part for point in points] == ["prefill", "decode"]
    assert points[0].per_second == pytest.approx(16e3 / points[0].median_ms)


def test_the_rival_takes_turns_and_its_ratio_is_stated(tmp_path: Path, compress: Callable[..., Outcome]) -> None:
    file = saved("(float[B,L] x) => (float[B,L] y) { y = Exp(x) }", tmp_path)
    options = ("--batch", 2, "--length", 4, "--repeats", 2, "-o", tmp_path / "out")
    ended = compress("bench", file, "--against", file, *options, "--json")
    assert ended.code == 0, ended.err
    ours, rival = ended.json()
    assert ours["artifact is faster by"] == 1
    assert rival["artifact is faster by"] == pytest.approx(rival["median_ms"] / ours["median_ms"])
    assert json.loads((tmp_path / "out" / "bench.json").read_text()) == ended.json()
    assert (tmp_path / "out" / "bench.html").read_text().count("<polyline") == 2
    assert "call 2x4 rival" in compress("bench", file, "--against", file, *options[:6]).out


def test_a_shape_that_does_not_run_is_named(tmp_path: Path) -> None:
    text = "(float[B,L] x, float[4] w) => (float[B,4] y) { y = Add(x, w) }"
    with pytest.raises(RequestError, match="does not run at batch 1, length 3"):
        benchmark.measure({"": {"artifact": Subject(saved(text, tmp_path))}}, Sweep((1,), (3,)))


def test_a_plot_has_a_line_for_each_side_and_batch() -> None:
    points = [Point(side, "call", batch, length, 1.0, 2.0, 3.0)
              for side in ("artifact", "rival") for batch in (1, 2) for length in (4, 8)]  # fmt: skip
    (svg,) = benchmark.plots(points)
    assert svg.count("<polyline") == 4
