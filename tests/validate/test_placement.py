"""Placement and latency are measured where the candidate runs; where it cannot, placement is predicted, and said so."""

from __future__ import annotations

from pathlib import Path

import pytest

from compressor.graph.session import save_model
from compressor.providers import prediction
from compressor.recipe.limits import Latency, Placement
from compressor.report.report import Measurement
from compressor.validate import latency, placement
from compressor.validate.subject import Subject
from tests import graphs

FALLEN = "(float[8,64] x) => (float[8,16] y) { h = MatMul(x, w)  a = Acos(h)  y = Tanh(a) }"


@pytest.fixture
def fallen(tmp_path: Path) -> Subject:
    """A network whose middle CUDA has no kernel for."""
    save_model(graphs.build(FALLEN, w=graphs.normal(64, 16)), tmp_path / "model.onnx")
    return Subject(tmp_path / "model.onnx")


def measure(subject: Subject, target: str, options: Placement, *, observe: bool) -> list[Measurement]:
    return placement.measure(subject, prediction.predict(subject.model, target), options, observe=observe)


def named(found: list[Measurement]) -> dict[str, Measurement]:
    return {one.name: one for one in found}


def test_on_the_cpu_everything_is_on_the_cpu(fallen: Subject) -> None:
    found = named(measure(fallen, "cpu", Placement(min_nodes_on_provider=1, max_copies=0), observe=True))
    assert [one.value for one in found.values()] == [1, 1, 0, 1]
    assert all(one.passed for one in found.values())
    assert found["share of kernels run on cpu"].note == "3 in the profile of one call"
    assert found["share of kernels run on cpu"].sense == "at least"


def test_what_is_observed_is_what_was_predicted(fallen: Subject) -> None:
    observed, predicted = (measure(fallen, "cpu", Placement(), observe=see)[:3] for see in (True, False))
    assert [one.value for one in observed] == [one.value for one in predicted]


def test_a_fallback_misses_its_limits(fallen: Subject) -> None:
    limits = Placement(min_nodes_on_provider=0.9, min_flops_on_provider=0.9, max_copies=1)
    nodes, flops, copies = measure(fallen, "cuda", limits, observe=False)
    assert (nodes.value, nodes.passed, nodes.note) == (pytest.approx(2 / 3), False, "predicted")
    assert (flops.value, flops.passed) == (pytest.approx(1 - 128 / (2 * 8 * 64 * 16 + 256)), True)
    assert (copies.value, copies.passed) == (2, False)


def test_a_graph_that_will_not_load_has_nothing_on_its_target(tmp_path: Path) -> None:
    text = "(bfloat16[1,3,8,8] x) => (bfloat16[1,3,8,8] y) { y = GlobalAveragePool(x) }"
    save_model(graphs.build(text), tmp_path / "model.onnx")
    limits = Placement(min_flops_on_provider=0.1)
    nodes, flops, _ = measure(Subject(tmp_path / "model.onnx"), "cuda", limits, observe=False)
    assert (nodes.value, flops.passed, nodes.note) == (0, False, "predicted; cannot run: y")


def test_latency_is_positive_and_its_limit_can_be_missed(fallen: Subject) -> None:
    found = named(latency.measure(fallen, Latency(repeats=5, max_call_p95=1e-6)))
    assert 0 < found["call latency, median"].value <= found["call latency, p95"].value
    assert not found["call latency, p95"].passed
    assert found["session opened in"].value > 0


def test_the_first_call_is_not_counted() -> None:
    calls: list[int] = []
    assert len(latency.laps(lambda: calls.append(1), 4)) == 4
    assert len(calls) == 5
