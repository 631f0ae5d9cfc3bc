"""The verdict is data: a limit is met or missed, a number that is none meets nothing; tables are drawn from it."""

from __future__ import annotations

import json
import math
from dataclasses import FrozenInstanceError

import pytest

from compressor.report import page, tables
from compressor.report.report import Measurement, Report, Sense

FINE = Measurement("perplexity", 4.0, limit=4.1, reference=3.9)
MISSED = Measurement("kl", 0.2, "nats", limit=0.1, note="mean over a | b")
FREE = Measurement("size", 2_500_000, "bytes")


def whole(*measurements: Measurement, fallbacks: tuple[str, ...] = ()) -> Report:
    return Report(
        measurements,
        fallbacks=fallbacks,
        stages=({"stage": "export", "seconds": 1.25, "reused": False, "bytes": None},),
        passes=({"name": "constant-folding", "refusals": ["If: not constant (2)", "Loop: too large"]},),
        facts={"model": "builtin:tiny-lm"},
    )


@pytest.mark.parametrize(
    ("value", "sense", "limit", "passed"),
    [
        (1.0, "at most", 1.0, True),
        (1.1, "at most", 1.0, False),
        (1.0, "at least", 1.0, True),
        (0.9, "at least", 1.0, False),
        (1e9, "at most", None, True),
        (math.nan, "at most", None, True),
    ],
)
def test_a_limit_is_met_or_missed(value: float, sense: Sense, limit: float | None, passed: bool) -> None:
    assert Measurement("a", value, limit=limit, sense=sense).passed is passed


@pytest.mark.parametrize("sense", ["at most", "at least"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_none_meets_no_limit(value: float, sense: Sense) -> None:
    assert not Measurement("a", value, limit=1.0, sense=sense).passed


def test_the_verdict_names_what_was_missed() -> None:
    assert Report((FINE, FREE)).verdict(strict=True) == "passed"
    assert Report((FINE, MISSED, Measurement("top1", math.nan, limit=0.9))).verdict(strict=False) == "missed kl, top1"


def test_a_fallback_counts_when_strict() -> None:
    fell_back = Report((FINE,), fallbacks=("layer a: rounded", "pass b: rolled back"))
    assert fell_back.verdict(strict=False) == "passed"
    assert fell_back.verdict(strict=True) == "fell back 2 times"


def test_a_missed_limit_goes_before_a_fallback() -> None:
    assert Report((MISSED,), fallbacks=("layer a: rounded",)).verdict(strict=True) == "missed kl"


def test_json_holds_everything_and_is_json() -> None:
    made = whole(FINE, Measurement("error", math.nan, limit=1.0, reference=math.inf), fallbacks=("layer a: rounded",))
    text = json.dumps(made.to_json(strict=True), allow_nan=False)
    data = json.loads(text)
    assert data.keys() == {
        "verdict", "measurements", "fallbacks", "stages", "passes", "layers", "tradeoff", "placement", "left_alone",
        "left_bytes", "facts",
    }  # fmt: skip
    assert data["verdict"] == "missed error"
    assert data["measurements"][0] == {
        "name": "perplexity",
        "value": 4.0,
        "unit": "",
        "reference": 3.9,
        "limit": 4.1,
        "sense": "at most",
        "note": "",
        "passed": True,
    }
    assert (data["measurements"][1]["value"], data["measurements"][1]["reference"]) == ("nan", "inf")


def test_markdown_is_made_of_verdict_facts_and_tables() -> None:
    lines = whole(FINE, MISSED, FREE, fallbacks=("layer a: rounded",)).to_markdown(strict=True).splitlines()
    assert lines == [
        "# Report: missed kl",
        "",
        "- model: builtin:tiny-lm",
        "",
        "| measurement | value | reference | limit | verdict | note |",
        "| --- | --- | --- | --- | --- | --- |",
        "| perplexity | 4 | 3.9 | at most 4.1 | passed |  |",
        r"| kl | 0.2 nats |  | at most 0.1 nats | MISSED | mean over a \| b |",
        "| size | 2.50 MB |  |  |  |  |",
        "",
        "## Fallbacks",
        "",
        "- layer a: rounded",
        "",
        "## Passes",
        "",
        "| name | refusals |",
        "| --- | --- |",
        "| constant-folding | If: not constant (2); Loop: too large |",
        "",
        "## Stages",
        "",
        "| stage | seconds | reused | bytes |",
        "| --- | --- | --- | --- |",
        "| export | 1.25 | False |  |",
    ]


def test_a_row_without_a_column_leaves_its_cell_empty() -> None:
    text = Report((FINE,), layers=({"b": 2, "a": 1}, {"a": 3})).to_markdown(strict=False)
    assert text.endswith("## Layers\n\n| b | a |\n| --- | --- |\n| 2 | 1 |\n|  | 3 |\n")


def test_what_was_not_quantized_is_said_with_its_reason() -> None:
    made = Report((FINE,), left_alone={"lm_head": "excluded by 'lm_head'"}, left_bytes={"lm_head": 4096})
    table = "| layer | bytes | why |\n| --- | --- | --- |\n| lm_head | 4096 | excluded by 'lm_head' |\n"
    assert f"## Left alone\n\n{table}" in made.to_markdown(strict=False)
    assert made.to_json(strict=False)["left_alone"] == {"lm_head": "excluded by 'lm_head'"}
    assert "excluded by &#x27;lm_head&#x27;" in page.render(made, strict=False)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (1234.5, "", "1,234"),
        (12.3456, "", "12.346"),
        (0.00123456, "", "0.0012346"),
        (3, "tokens/s", "3 tokens/s"),
        (1_234_567, "bytes", "1.23 MB"),
        (-2500.0, "", "-2,500"),
        (0.0, "", "0"),
        (math.nan, "", "nan"),
        (math.inf, "nats", "inf"),
    ],
)
def test_a_number_is_short(value: float, unit: str, text: str) -> None:
    assert tables.number(value, unit) == text


def test_a_report_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        FINE.value = 0.0  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        Report((FINE,)).measurements = ()  # type: ignore[misc]
