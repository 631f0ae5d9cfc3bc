"""`compress bench --serving`: each stream asks as often as it is told, and what is timed adds up."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from compressor.serve import streams
from compressor.serve.streams import Streams
from tests.conftest import Outcome
from tests.serve.conftest import Subject

Tiny = Callable[[int | None], Subject]
FEW = Streams((1, 3), (8, 40), new_tokens=6, answers=3, backend="reference", threads=1)


def test_every_number_of_streams_is_measured_at_every_length(tiny: Tiny) -> None:
    loads = streams.measure({"artifact": tiny(4).served}, FEW)
    assert [(one.prompt_tokens, one.streams) for one in loads] == [(8, 1), (8, 3), (40, 1), (40, 3)]
    for one in loads:
        assert 0 < one.first_token_ms <= one.first_token_p95_ms
        assert 0 < one.each_token_ms <= one.each_token_p95_ms
    alone = loads[0]  # one stream: an answer is its first token and the five after it, and no answer waits for another
    assert alone.tokens_per_second == pytest.approx(6e3 / (alone.first_token_ms + 5 * alone.each_token_ms), rel=0.5)


def test_a_rival_has_its_ratio_and_a_plot_its_lines(tiny: Tiny) -> None:
    served = tiny(4).served
    loads = streams.measure({"artifact": served, "rival": served}, Streams((1,), (8,), 4, 2, "reference", 1))
    ours, theirs = streams.rows(loads)
    assert ours["artifact is faster by"] == 1
    assert theirs["artifact is faster by"] == ours["tokens_per_second"] / theirs["tokens_per_second"]
    assert all("rival, prompts of 8" in plot for plot in streams.plots(loads))


def test_the_command_says_it_in_json_and_writes_the_plot(
    tiny: Tiny, tmp_path: Path, compress: Callable[..., Outcome]
) -> None:
    call = ("bench", tiny(4).folder, "--serving", "--streams", 2, "--length", 8, "--new-tokens", 4)
    ended = compress(*call, "-o", tmp_path, "--json")
    assert [row["streams"] for row in ended.json()] == [2]
    assert ended.json() == json.loads((tmp_path / "bench.json").read_text())
    assert "<svg" in (tmp_path / "bench.html").read_text()
    refused = compress(*call, "--provider", "cuda")
    assert (refused.code, "--serving measures on the cpu" in refused.err) == (2, True)


def test_what_does_not_fit_the_model_is_refused(tiny: Tiny, compress: Callable[..., Outcome]) -> None:
    ended = compress("bench", tiny(4).folder, "--serving", "--length", 600)
    assert (ended.code, "this server holds" in ended.err) == (2, True)
