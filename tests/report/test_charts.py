"""A chart is an XML document with every number that went in, and nothing fetched from anywhere."""

from __future__ import annotations

import math
from xml.etree import ElementTree

from compressor.report import charts

SVG = "{http://www.w3.org/2000/svg}"


def elements(svg: str, name: str) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(svg).iter(f"{SVG}{name}"))


def test_lines_rise_where_numbers_rise() -> None:
    svg = charts.lines("latency", {"a <b>": [(1, 2.0), (8, 4.0)], "rival": [(1, 3.0)]}, x="batch", y="ms")
    first, second = (line.get("points", "") for line in elements(svg, "polyline"))
    (x1, y1), (x2, y2) = ([float(n) for n in pair.split(",")] for pair in first.split())
    assert x1 < x2
    assert y1 > y2  # the screen's y grows downwards
    assert second
    assert [circle[0].text for circle in elements(svg, "circle")] == ["a <b>: 1, 2", "a <b>: 8, 4", "rival: 1, 3"]


def test_bars_are_as_long_as_their_values_and_an_infinite_one_says_so() -> None:
    svg = charts.bars("error", [("q", 2.0, ""), ("k", 1.0, ""), ("v", math.inf, "flagged")])
    widths = [float(bar.get("width", "")) for bar in elements(svg, "rect")]
    assert widths[0] == 2 * widths[1]
    assert widths[2] == 0
    assert any("inf" in (text.text or "") and "flagged" in (text.text or "") for text in elements(svg, "text"))


def test_the_end_of_a_long_name_is_kept() -> None:
    name = "model.layers.0.self_attention.query_projection.weight"
    labels = [text.text or "" for text in elements(charts.bars("e", [(name, 1.0, "")]), "text")]
    assert any(label.startswith("...") and name.endswith(label[3:]) for label in labels)
    assert name in "".join(element.text or "" for element in elements(charts.bars("e", [(name, 1.0, "")]), "title"))


def test_shares_fill_the_bar() -> None:
    parts = [float(rect.get("width", "")) for rect in elements(charts.shares("p", [("a", 3), ("b", 1)]), "rect")]
    assert parts[0] == 3 * next(width for width in parts[1:] if width > 12)


def test_nothing_is_nothing_and_still_a_chart() -> None:
    for svg in (charts.lines("l", {}, x="x", y="y"), charts.bars("b", []), charts.shares("s", [])):
        assert elements(svg, "title")
