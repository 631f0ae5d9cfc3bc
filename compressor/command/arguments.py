"""What a command takes, said once: a line that is plainly right is read here, every other by typer.

    Annotated[str, Option("--for", help="...")]      --for cpu, --for=cpu; typer's help, and typer's complaints

typer brings pydantic, and loading the two takes longer than optimizing a small graph does. They come where a line
needs them: for help, for a mistake, for a value that has to be checked.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

from compressor.errors import REQUEST_WRONG, RequestError

if TYPE_CHECKING:
    import typer

F = TypeVar("F", bound=Callable[..., object])
PROGRAM = "compress"
INTERRUPTED, UNREAD = 130, 141  # 128 + SIGINT, 128 + SIGPIPE, as shells have it
UNCHECKED = {"help", "resolve_path"}  # settings that leave every value right


class Argument:
    """A parameter that is given by its place; `settings` are those of typer.Argument."""

    def __init__(self, *names: str, **settings: Any) -> None:
        self.names, self.settings = names, settings


class Option(Argument):
    """A parameter that is given by name, as `--for cpu`; `settings` are those of typer.Option."""


class Commands:
    """The commands of a program: functions whose parameters are declared as options and arguments."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings
        self.functions: dict[str, Callable[..., object]] = {}

    def add(self, function: F) -> F:
        self.functions[function.__name__] = function
        return function

    def run(self, words: Sequence[str]) -> object:
        """Run the command that a line names. Raises: RequestError, KeyboardInterrupt, and what the command raises."""
        function = self.functions.get(words[0]) if words else None
        try:
            given = read(function, words[1:]) if function else None
        except NotPlainError:
            given = None
        return function(**given) if function and given is not None else self._run_by_typer(words)

    def _run_by_typer(self, words: Sequence[str]) -> object:
        import typer

        usage_error: Any = typer.BadParameter.__base__  # click's, which typer carries under a private name
        try:
            result = self.as_typer()(list(words) or ["--help"], prog_name=PROGRAM, standalone_mode=False)
        except usage_error as error:
            message = error.format_message()
            stop = "" if message.endswith((".", "?")) else "."
            hint = f"{stop} Try `{error.ctx.command_path} --help`." if error.ctx else ""
            raise RequestError(f"{message}{hint}") from None
        except typer.Abort:
            raise KeyboardInterrupt from None
        if result == INTERRUPTED:  # typer has caught the interrupt and returns its code
            raise KeyboardInterrupt
        return result if words else REQUEST_WRONG  # a line that names no command is answered with help

    def as_typer(self) -> typer.Typer:
        """The same commands, as typer has them."""
        import typer

        app = typer.Typer(**self.settings)
        for function in self.functions.values():
            app.command()(_declared_for_typer(function))
        return app


class NotPlainError(Exception):
    """A line, or a word of it, that typer is to look at."""


class _Parameter:
    """A command's parameter: its name, the type of a value, how many values it takes, and how it is declared."""

    def __init__(self, parameter: inspect.Parameter, hint: Any) -> None:
        annotated, self.declared = get_args(hint)
        kinds = get_args(annotated) if get_origin(annotated) is UnionType else (annotated,)
        kind = next(one for one in kinds if one is not NoneType)
        self.name, self.default, self.many = parameter.name, parameter.default, get_origin(kind) is list
        self.kind = get_args(kind)[0] if self.many else kind

    @property
    def by_place(self) -> bool:
        return not isinstance(self.declared, Option)

    def value(self, word: str) -> Any:
        if not self.declared.settings.keys() <= UNCHECKED or self.kind not in (str, Path):
            raise NotPlainError
        if self.kind is str:
            return word
        path = Path(os.path.realpath(word) if self.declared.settings.get("resolve_path") else word)
        if path.exists() and not os.access(path, os.R_OK):
            raise NotPlainError
        return path


def read(function: Callable[..., object], words: Sequence[str]) -> dict[str, Any]:
    """What a line gives to a function, as typer would read it. Raises: NotPlainError."""
    parameters = list(_parameters(function))
    by_name = {name: one for one in parameters if not one.by_place for name in one.declared.names}
    found: dict[str, list[Any]] = {}
    placed: list[str] = []
    rest = iter(words)
    for word in rest:
        if not word.startswith("-"):
            placed.append(word)
            continue
        name, equals, text = word.partition("=")
        parameter = by_name.get(name)
        if parameter is None or (parameter.kind is bool and equals) or (equals and not name.startswith("--")):
            raise NotPlainError
        value = True if parameter.kind is bool else parameter.value(text if equals else _next(rest))
        found.setdefault(parameter.name, []).append(value)
    found |= _in_place([one for one in parameters if one.by_place], placed)
    return {one.name: _whole(one, found.get(one.name, [])) for one in parameters}


def _parameters(function: Callable[..., object]) -> Iterator[_Parameter]:
    hints = get_type_hints(function, include_extras=True)
    for parameter in inspect.signature(function).parameters.values():
        yield _Parameter(parameter, hints[parameter.name])


def _next(rest: Iterator[str]) -> str:
    word = next(rest, "-")
    if word.startswith("-"):
        raise NotPlainError
    return word


def _in_place(parameters: Sequence[_Parameter], words: Sequence[str]) -> dict[str, list[Any]]:
    """Words by their places: one for each parameter, or all of them for the one that takes many."""
    if len(parameters) == 1 and parameters[0].many and words:
        return {parameters[0].name: [parameters[0].value(word) for word in words]}
    if len(parameters) != len(words) or any(one.many for one in parameters):
        raise NotPlainError
    return {one.name: [one.value(word)] for one, word in zip(parameters, words, strict=True)}


def _whole(parameter: _Parameter, values: list[Any]) -> Any:
    if not values:
        if parameter.default is inspect.Parameter.empty or "envvar" in parameter.declared.settings:
            raise NotPlainError
        return list(parameter.default) if parameter.many else parameter.default
    if len(values) > 1 and not parameter.many:
        raise NotPlainError
    return values if parameter.many else values[0]


def _declared_for_typer(function: Callable[..., object]) -> Callable[..., object]:
    """The same function, whose options and arguments are typer's own."""
    import typer

    def declared(parameter: inspect.Parameter, hints: Mapping[str, Any]) -> inspect.Parameter:
        kind, mine = get_args(hints[parameter.name])
        if isinstance(mine, Option):
            return parameter.replace(annotation=Annotated[kind, typer.Option(*mine.names, **mine.settings)])
        shown = parameter.name.rstrip("_")  # `input_` spares Python's own name
        return parameter.replace(annotation=Annotated[kind, typer.Argument(metavar=shown, **mine.settings)])

    @functools.wraps(function)
    def twin(**given: Any) -> object:
        return function(**given)

    signature, hints = inspect.signature(function), get_type_hints(function, include_extras=True)
    parameters = [declared(one, hints) for one in signature.parameters.values()]
    twin.__dict__["__signature__"] = signature.replace(parameters=parameters)
    return twin
