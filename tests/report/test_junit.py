"""JUnit XML says what the verdict says: as many failures as misses, and under --strict as fallbacks."""

from __future__ import annotations

import math
from xml.etree import ElementTree

from compressor.report import junit
from compressor.report.report import Measurement, Report

REPORT = Report(
    (
        Measurement("perplexity", 4.0, limit=4.1),
        Measurement("kl", math.nan, "nats", limit=0.1, note="a <b> & c"),
        Measurement("size", 2_500_000, "bytes"),
    ),
    fallbacks=("layer a: rounded",),
)


def suite(*, strict: bool) -> ElementTree.Element:
    return ElementTree.fromstring(junit.render(REPORT, strict=strict))


def test_a_miss_is_a_failure_with_value_and_limit() -> None:
    found = suite(strict=False)
    assert (found.get("tests"), found.get("failures"), found.get("errors")) == ("3", "1", "0")
    (failure,) = found.findall("testcase/failure")
    assert failure.get("message") == "nan is not at most 0.1 nats"
    assert failure.text == "a <b> & c"
    assert found.findtext("system-out") == "layer a: rounded"


def test_a_fallback_fails_under_strict() -> None:
    found = suite(strict=True)
    assert (found.get("tests"), found.get("failures")) == ("4", "2")
    assert found.findall("testcase")[-1].get("name") == "layer a: rounded"


def test_every_number_is_there() -> None:
    outputs = [case.findtext("system-out") for case in suite(strict=False).findall("testcase")]
    assert outputs == ["4", "nan a <b> & c", "2.50 MB"]
