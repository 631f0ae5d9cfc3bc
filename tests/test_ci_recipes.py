"""The examples for CI are YAML that calls commands and options which exist."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from typer.main import get_command

import cli
from tests.conftest import ROOT

FOLDER = ROOT / "recipes" / "ci"
CALL = re.compile(r"compress ([a-z]+)([^|;&\n]*)")


def texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            yield from texts(one)
    elif isinstance(value, str):
        yield value


@pytest.mark.parametrize("path", sorted(FOLDER.iterdir()), ids=lambda path: path.name)
def test_every_call_is_one_that_the_command_line_takes(path: Any) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# For ")
    commands = getattr(get_command(cli.commands.as_typer()), "commands")  # noqa: B009  click's Group, which typer hides
    calls = [match for line in texts(yaml.safe_load(text)) for match in CALL.finditer(line) if match[1] in commands]
    assert len(calls) >= 2
    for call in calls:
        known = {name for parameter in commands[call[1]].params for name in parameter.opts}
        assert {word for word in shlex.split(call[2].replace("'", "")) if word.startswith("-")} <= known
