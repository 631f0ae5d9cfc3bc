"""What got worse than the last good report misses; what moved as machines do, or got better, does not."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from compressor.errors import RequestError
from compressor.report import baseline
from compressor.report.report import Measurement, Report, Sense


def moved(name: str, before: float, now: float, unit: str = "", sense: Sense = "at most") -> Measurement:
    earlier, later = (Report((Measurement(name, value, unit, sense=sense),)) for value in (before, now))
    (found,) = baseline.compare(later, {row["name"]: row for row in earlier.to_json(strict=False)["measurements"]})
    return found


@pytest.mark.parametrize(
    ("name", "before", "now", "unit", "sense", "passed"),
    [
        ("perplexity", 4.0, 4.03, "", "at most", True),
        ("perplexity", 4.0, 4.05, "", "at most", False),
        ("perplexity", 4.0, 3.0, "", "at most", True),
        ("accuracy", 0.9, 0.85, "", "at least", False),
        ("accuracy", 0.9, 0.95, "", "at least", True),
        ("share of kernels run on cuda", 0.5, 1.0, "", "at least", True),
        ("decode speed", 100, 80, "tokens/s", "at least", True),
        ("decode speed", 100, 60, "tokens/s", "at least", False),
        ("prefill latency, p95", 1.0, 1.9, "ms", "at most", True),
        ("prefill latency, p95", 1.0, 2.1, "ms", "at most", False),
        ("logit difference", 0.0, 1e-7, "", "at most", True),
        ("logit difference", 0.0, 1e-3, "", "at most", False),
        ("KL to reference", math.inf, 1.0, "nats", "at most", True),
        ("KL to reference", 1.0, math.inf, "nats", "at most", False),
    ],
)
def test_a_move_has_the_limit_of_its_kind(
    name: str, before: float, now: float, unit: str, sense: Sense, passed: bool
) -> None:
    found = moved(name, before, now, unit, sense)
    assert found.passed is passed
    assert found.name == f"{name} worse by"


def test_a_number_that_is_gone_is_a_miss_and_a_new_one_is_none() -> None:
    earlier = {"accuracy": {"value": 0.9, "note": ""}, "device memory": {"value": 1, "note": ""}}
    report = baseline.judged(Report((Measurement("perplexity", 3.0),)), earlier)
    assert report.verdict(strict=False) == "missed accuracy measured"


def test_a_comparison_is_not_compared_again(tmp_path: Path) -> None:
    first = Report((Measurement("perplexity", 4.0),))
    path = tmp_path / "report.json"
    for _ in range(3):
        path.write_text(json.dumps(first.to_json(strict=False)))
        again = baseline.judged(Report((Measurement("perplexity", 4.0),)), baseline.read(path))
        assert [one.name for one in again.measurements] == ["perplexity", "perplexity worse by"]
        first = again


@pytest.mark.parametrize("text", ["", "[]", '{"measurements": [{}]}'])
def test_what_is_no_report_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(text)
    with pytest.raises(RequestError, match=r"no report.json of compress"):
        baseline.read(path)
