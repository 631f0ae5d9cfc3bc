"""A model's folder names its tokenizer and the token that begins a document, and neither adds what nobody wrote."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from compressor.data.vocabulary import Vocabulary
from compressor.errors import RequestError
from tests.byte_tokenizer import BOS, write_tokenizer


def test_documents_are_encoded_as_they_are(tmp_path: Path) -> None:
    """No BOS, no padding and no cut of the tokenizer's own."""
    write_tokenizer(tmp_path)
    assert [len(ids) for ids in Vocabulary(tmp_path, BOS).encode(["abcdefgh", "ab", ""])] == [8, 2, 0]


@pytest.mark.parametrize(
    ("config", "bos"),
    [({"bos_token_id": 5}, 5), ({"bos_token_id": [5, 6]}, 5), ({"text_config": {"bos_token_id": 5}}, 5), ({}, None)],
)
def test_the_configuration_names_bos(tmp_path: Path, config: dict[str, object], bos: int | None) -> None:
    (tmp_path / "tokenizer.json").touch()
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert Vocabulary.of(tmp_path).bos == bos


@pytest.mark.parametrize("only", ["tokenizer.json", "config.json"])
def test_a_folder_without_tokenizer_or_configuration_is_refused(tmp_path: Path, only: str) -> None:
    (tmp_path / only).write_text("{}")
    with pytest.raises(RequestError, match=r"no tokenizer\.json with config\.json"):
        Vocabulary.of(tmp_path)


def test_a_broken_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(RequestError, match=r"tokenizer\.json: not a tokenizer: "):
        Vocabulary.of(tmp_path).encode(["a"])
