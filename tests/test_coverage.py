"""A sample of docs/coverage.md is made anew: one architecture of each kind. A minute, for each is traced and proven."""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers

from tests import architectures, coverage

SAMPLE = ("gpt2", "distilbert", "deit", "regnet", "hubert", "marian")
ALLOWED = 1e-4  # float32, compressor/export/proof.py


@pytest.mark.parametrize("name", SAMPLE)
def test_an_architecture_is_right_as_exported_and_as_optimized(name: str, tmp_path: Path) -> None:
    row = coverage.cover(name, ["cpu"], tmp_path)
    assert row["worst"].keys() == {"exported", "cpu"}
    assert all(isinstance(worst, float) and worst < ALLOWED for worst in row["worst"].values()), row["worst"]


def test_a_row_that_fails_keeps_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = architectures.Row("BertForNextSentencePrediction", architectures.TEXT)
    monkeypatch.setitem(architectures.ROWS, "next sentence", row)
    made = coverage.cover("next sentence", ["cpu"], tmp_path)
    reason = made["worst"]["exported"]
    assert "tells no task" in reason
    table = coverage.table({"next sentence": made})
    assert reason in table
    assert "0 of 1 architectures are right" in table


def test_there_are_sixty_architectures_and_transformers_has_each() -> None:
    assert len(architectures.ROWS) >= 60
    assert all(hasattr(transformers, row.model) for row in architectures.ROWS.values())
