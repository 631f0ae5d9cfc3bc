"""Text comes out whole: no half characters, no beginning of a stop, and all of it together is what the tokens say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from compressor import builtin
from compressor.errors import RequestError
from compressor.serve import chat_template
from compressor.serve.text import Text


def by_bytes() -> Tokenizer:
    """A token for each byte: a character beyond ASCII takes several."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({one: index for index, one in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def pieces(text: str, *stops: str) -> tuple[list[str], Text]:
    tokenizer = by_bytes()
    out = Text(tokenizer, stops)
    return [out.push(token) for token in tokenizer.encode(text).ids], out


def test_a_character_waits_for_its_last_token() -> None:
    found, out = pieces("a\N{SNOWMAN}\N{CAT FACE}b")
    assert found == ["a", "", "", "\N{SNOWMAN}", "", "", "", "\N{CAT FACE}", "b"]
    assert out.finish() == ""


def test_an_output_that_ends_in_half_a_character_says_so() -> None:
    tokenizer = by_bytes()
    out = Text(tokenizer)
    assert [out.push(token) for token in tokenizer.encode("\N{SNOWMAN}").ids[:2]] == ["", ""]
    assert set(out.finish()) == {"\N{REPLACEMENT CHARACTER}"}


@pytest.mark.parametrize("seed", range(5))
def test_the_pieces_are_the_whole(seed: int) -> None:
    tokenizer = Tokenizer.from_file(str(builtin.TINY_LM / "tokenizer.json"))
    tokens = np.random.default_rng(seed).integers(2, 512, 40).tolist()
    out = Text(tokenizer)
    assert "".join(map(out.push, tokens)) + out.finish() == tokenizer.decode(tokens)


def test_a_stop_is_not_delivered_nor_its_beginning() -> None:
    found, out = pieces("one two", "two", "twin")
    assert "".join(found) == "one "
    assert out.stopped
    assert out.finish() == ""


def test_what_only_looked_like_a_stop_is_delivered_in_the_end() -> None:
    found, out = pieces("a tw", "two")
    assert ("".join(found), out.finish(), out.stopped) == ("a ", "tw", False)
    found, out = pieces("twitwo", "two")
    assert ("".join(found), out.stopped) == ("twi", True)


# --- templates -------------------------------------------------------------------------------------------------------

TEMPLATE = "{% for one in messages %}<{{ one.role }}>{{ one.content }}{{ eos_token }}{% endfor %}<assistant>"


def test_a_template_makes_messages_a_text(tmp_path: Path) -> None:
    config = {"chat_template": TEMPLATE, "eos_token": {"content": "."}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert chat_template.render(tmp_path, [{"role": "user", "content": "Hi"}]) == "<user>Hi.<assistant>"
    (tmp_path / "chat_template.jinja").write_text("{{ raise_exception('no system') }}")
    with pytest.raises(RequestError, match="no system"):
        chat_template.render(tmp_path, [])


def test_a_template_may_leave_its_loops(tmp_path: Path) -> None:
    text = (
        "{% for one in messages %}{% if one.role == 'system' %}{% continue %}{% endif %}{{ one.content }}{% endfor %}"
    )
    (tmp_path / "chat_template.jinja").write_text(text)
    messages = [{"role": role, "content": role} for role in ("system", "user")]
    assert chat_template.render(tmp_path, messages) == "user"


@pytest.mark.parametrize(
    "escape", ["{{ ''.__class__.__mro__[1] }}", "{{ messages.append(1) }}", "{% include '/etc/passwd' %}"]
)
def test_a_template_does_not_leave_its_sandbox(escape: str, tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text(escape)
    with pytest.raises(RequestError, match="refuses"):
        chat_template.render(tmp_path, [])


def test_a_model_that_was_not_made_for_chat_says_so(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="/v1/completions"):
        chat_template.render(tmp_path, [])
