"""The page is whole in itself: every section with its chart, nothing fetched, nothing run, and a browser draws it."""

from __future__ import annotations

import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from compressor.report import page
from compressor.report.report import Measurement, Report

VOID = ("meta", "br", "img")
REPORT = Report(
    (
        Measurement("perplexity", 4.2, reference=4.0, limit=4.1),
        Measurement("size", 1e6, "bytes", reference=4e6),
        Measurement("prefill latency, p95", 5.1, "ms", note="<script>alert(1)</script>"),
    ),
    fallbacks=("layer a: rounded",),
    stages=({"stage": "export", "seconds": 1.25},),
    passes=({"name": "constant-folding", "refusals": ["If: not constant", "Loop: too large"]},),
    layers=({"layer": "q", "error": 0.2, "rounding_error": 0.1}, {"layer": "k", "error": 0.1}, {"layer": "v"}),
    placement=({
        "graph": "model.onnx", "target": "cuda", "how": "by the kernels of 1.31.1",
        "runs": [("cuda", 3), ("cpu", 1), ("cuda", 2)],
        "providers": [{"provider": "cuda", "nodes": 5, "FLOPs": 90}, {"provider": "cpu", "nodes": 1, "FLOPs": 10}],
        "elsewhere": [{"operator": "Acos", "why": "no kernel"}], "advice": ["int8 Q/DQ on CUDA is float work"],
    },),
    facts={"model": "builtin:tiny-lm"},
)  # fmt: skip


class Reader(HTMLParser):
    """Collects what a browser would: tags, text, what they point to; and sees that every tag is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.links: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "action")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture(scope="module")
def read() -> Reader:
    reader = Reader()
    reader.feed(page.render(REPORT, strict=False))
    return reader


def test_every_tag_is_closed_and_nothing_is_fetched_or_run(read: Reader) -> None:
    assert read.open == []
    assert read.links == []
    assert not {"script", "link", "img", "iframe", "object"} & set(read.tags)


def test_every_section_is_there_with_its_charts(read: Reader) -> None:
    text = " ".join(read.text)
    titles = ("Measurements", "Fallbacks", "Against the reference", "Error by layer", "Placement", "Latency", "Passes",
              "Stages", "Provenance")  # fmt: skip
    assert [title for title in titles if title not in text] == []
    assert read.tags.count("svg") == 2 + 1 + 2 + 1  # perplexity and size; layers; map and shares; latency
    for words in ("missed perplexity", "builtin:tiny-lm", "worse than rounding", "<script>alert(1)</script>",
                  "int8 Q/DQ on CUDA is float work", "nodes of model.onnx in order"):  # fmt: skip
        assert words in text


def test_a_report_of_nothing_is_a_page() -> None:
    reader = Reader()
    reader.feed(page.render(Report(()), strict=True))
    assert reader.open == []
    assert "svg" not in reader.tags


def test_a_browser_draws_it(tmp_path: Path) -> None:
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no Chromium here; apt-get install chromium")
    (tmp_path / "report.html").write_text(page.render(REPORT, strict=False), encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    shot = [f"--screenshot={tmp_path / 'shot.png'}", "--window-size=900,2400", (tmp_path / "report.html").as_uri()]
    subprocess.run([browser, *options, *shot], capture_output=True, timeout=120, check=True)
    pictures = pytest.importorskip("PIL.Image", reason="Pillow reads the picture that the browser drew")
    with pictures.open(tmp_path / "shot.png") as image:
        colours = {colour for count, colour in image.convert("RGB").getcolors(1 << 24) or [] if count > 300}
    assert {(0, 0x72, 0xB2), (0xE6, 0x9F, 0)} <= colours  # the blue of the bars, the orange of the second provider
