"""Prompts of a file, answered into a file: JSON lines in, JSON lines out, and a run that was ended goes on.

    {"prompt": "Two cats", "max_tokens": 16}  or  {"tokens": [5, 6, 7]}   with temperature, top_p, seed, stop, id
    -> {"id": 0, "text": " sleep", "tokens": [...], "finish": "length", "cached_tokens": 0}

The backend decides how requests are batched; all give the same tokens.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from pydantic import Field, ValidationError, model_validator

from compressor.errors import RequestError, in_a_line
from compressor.progress import Track, identity
from compressor.serve import openai_schema
from compressor.serve.backend import Backend, Request, Sampling
from compressor.serve.served import Served
from compressor.serve.text import Text

UNANSWERED = ("failed", "refused")


class Line(openai_schema.Part):
    """A line of the input: a text or tokens, and how they go on."""

    id: Any = None  # none: the number of its line, from 0
    prompt: str | None = None
    tokens: list[int] | None = None
    max_tokens: int = 16
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: str | list[str] = Field([])

    @model_validator(mode="after")
    def _text_or_tokens(self) -> Line:
        if (self.prompt is None) == (self.tokens is None):
            raise ValueError("a prompt is an object with `prompt` or `tokens`, one of them")
        return self


@dataclass
class Prompt:
    """What a line asks for, and what has come of it."""

    id: Any
    request: Request
    where: str  # file:line
    stops: tuple[str, ...] = ()
    tokens: list[int] = field(default_factory=list)
    text: str = ""
    finish: str = ""
    cached_tokens: int = 0
    error: str = ""  # why it was not answered

    def line(self) -> dict[str, Any]:
        names = ("id", "text", "tokens", "finish", "cached_tokens", *(["error"] if self.error else []))
        return {name: getattr(self, name) for name in names}


def generate(
    served: Served,
    make: Callable[[], Backend],
    prompts: Path,
    output: Path,
    track: Track = identity,
) -> list[Prompt]:
    """Answer every prompt that the output does not hold yet; returns them, those with an `error` unanswered.

    Raises: RequestError with file and line of a prompt that is wrong, before anything is computed.
    """
    wanted = read(prompts, served)
    done = _ids_of(output)
    left = [one for one in wanted if one.id not in done]
    backend = make()
    for one in left:
        _check(backend, one)
    with _appended(output) as file:
        for one in track(_Counted(run(backend, left, served), len(left)), "generate"):
            file.write(json.dumps(one.line(), ensure_ascii=False) + "\n")
            file.flush()
    return left


def _check(backend: Backend, prompt: Prompt) -> None:
    try:
        backend.limits.check(prompt.request, backend.vocab)
    except RequestError as error:
        raise RequestError(f"{prompt.where}: {error}") from None


def _appended(output: Path) -> TextIO:
    try:
        return output.open("a", encoding="utf-8")
    except OSError as error:
        raise RequestError(f"{output}: cannot be written ({error.strerror}); choose another -o") from None


def run(backend: Backend, prompts: Sequence[Prompt], served: Served) -> Iterator[Prompt]:
    """Prompts in the order in which they end."""
    under_way = {backend.submit(one.request): one for one in prompts}
    texts = {number: Text(served.tokenizer, one.stops) for number, one in under_way.items()}
    while backend.busy:
        for event in backend.step():
            one, text = under_way[event.number], texts[event.number]
            if event.token is not None and not text.stopped:
                one.tokens.append(event.token)
                one.text += text.push(event.token)
                if text.stopped:
                    backend.cancel(event.number)
            if event.finish:
                one.text += text.finish()
                one.finish = "stop" if text.stopped else event.finish
                one.cached_tokens, one.error = event.cached_tokens, event.error
                yield one


def read(path: Path, served: Served) -> list[Prompt]:
    """The prompts of a file. Raises: RequestError, file:line."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{path}: cannot be read ({in_a_line(error)})") from None
    found = [
        _prompt(line, f"{path}:{number}", number - 1, served) for number, line in enumerate(lines, 1) if line.strip()
    ]
    if len({json.dumps(one.id) for one in found}) != len(found):
        raise RequestError(f"{path}: two prompts have one id; give each its own or leave all out")
    return found


def _prompt(line: str, where: str, number: int, served: Served) -> Prompt:
    try:
        wanted = Line.model_validate(json.loads(line))
        tokens = served.tokenizer.encode(wanted.prompt).ids if wanted.tokens is None else wanted.tokens
        sampling = Sampling(wanted.temperature, wanted.top_p, wanted.seed)
        request = Request(tuple(tokens), wanted.max_tokens, sampling)
    except json.JSONDecodeError as error:
        raise RequestError(f"{where}: not JSON: {error}") from None
    except ValidationError as error:
        raise RequestError(f"{where}: {openai_schema.explain(error)[1]}") from None
    except (TypeError, ValueError) as error:  # a text that no tokenizer reads, a sampling that there is not
        raise RequestError(f"{where}: {error}") from None
    stops = (wanted.stop,) if isinstance(wanted.stop, str) else tuple(wanted.stop)
    return Prompt(number if wanted.id is None else wanted.id, request, where, stops)


def _ids_of(output: Path) -> list[Any]:
    """Ids that an output has answers for; other lines go: errors, and a last one that a killed run left half."""
    if not output.is_file():
        return []
    *whole, _ = output.read_text(encoding="utf-8").split("\n")
    try:
        ends = {line: (one["id"], one["finish"]) for line in whole for one in [json.loads(line)]}
    except (ValueError, KeyError, TypeError):
        raise RequestError(f"{output}: holds lines that are not answers; choose another -o") from None
    answers = {line: number for line, (number, finish) in ends.items() if finish not in UNANSWERED}
    output.write_text("".join(f"{line}\n" for line in answers), encoding="utf-8")
    return list(answers.values())


class _Counted:
    """An iterable that knows its length, for a progress bar."""

    def __init__(self, items: Iterable[Prompt], length: int) -> None:
        self.items, self.length = items, length

    def __iter__(self) -> Iterator[Prompt]:
        return iter(self.items)

    def __len__(self) -> int:
        return self.length
