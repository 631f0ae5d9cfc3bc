"""Messages to the text that a model was trained on, by the template in its own folder.

The template is Jinja from a model that somebody else made: it runs in Jinja's sandbox, which has no files and no
attributes that lead out of it, as transformers runs it too.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compressor.errors import RequestError

FILE, CONFIG = "chat_template.jinja", "tokenizer_config.json"
TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token")


def find(folder: Path) -> str | None:
    """The template of a model's folder; none: it was not made for chat."""
    if (folder / FILE).is_file():
        return (folder / FILE).read_text(encoding="utf-8")
    found = _config(folder).get("chat_template")
    if isinstance(found, list):  # several, each with a name
        found = next((one["template"] for one in found if one.get("name") == "default"), None)
    return found


def render(folder: Path, messages: Sequence[dict[str, str]]) -> str:
    """Raises: RequestError when there is no template, or when it refuses the messages."""
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    template = find(folder)
    if template is None:
        raise RequestError("this model has no chat template; use /v1/completions")
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = _refuse
    environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
    tokens = {name: _content(_config(folder).get(name)) for name in TOKENS}
    try:
        return environment.from_string(template).render(messages=messages, add_generation_prompt=True, **tokens)
    except (TemplateError, TypeError, ValueError) as error:  # a template may add a number to a text, too
        raise RequestError(f"the model's chat template refuses these messages: {error}") from None


def _config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def _content(token: Any) -> str:
    return str(token["content"]) if isinstance(token, dict) else token or ""


def _refuse(why: str) -> None:
    from jinja2 import TemplateError

    raise TemplateError(why)
