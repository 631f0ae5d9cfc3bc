"""How a command ends: every outcome is a line on standard error and an exit code."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from compressor.command.arguments import INTERRUPTED, UNREAD
from compressor.command.terminal import say
from compressor.errors import (
    BUG,
    DONE,
    MACHINE_CANNOT,
    OUT_OF_MEMORY,
    CompressError,
    LimitMissedError,
    RequestError,
    in_a_line,
)

if TYPE_CHECKING:
    from compressor.artifact import Artifact
    from compressor.report.report import Report


STAGES_KEPT = "stages that are finished are kept, and the same command goes on from there"
KEPT = {
    "run": STAGES_KEPT,
    "quantize": STAGES_KEPT,
    "generate": "the same command goes on with the prompts that have no answer",
}


class TerminatedError(BaseException):
    """SIGTERM, raised where the work stands, so that what is half written goes as it does with an interrupt."""


def unwind_when_terminated() -> None:
    """Let a first SIGTERM take the work back before it ends the process; a second ends it at once."""

    def unwind(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise TerminatedError

    signal.signal(signal.SIGTERM, unwind)


def guarded(command: Callable[[], object], kept: str = "") -> int:
    """Run a command; whatever it raises becomes its line and its code. kept: what is not lost with an interrupt."""
    try:
        result = command()
        return result if isinstance(result, int) else DONE
    except CompressError as error:
        say(*str(error).splitlines())
        return error.exit_code
    except KeyboardInterrupt:
        say("; ".join(filter(None, ["interrupted", kept])))
        return INTERRUPTED
    except BrokenPipeError:  # whoever read what is printed has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return UNREAD
    except TerminatedError:
        signal.raise_signal(signal.SIGTERM)  # by now with its plain effect, which whoever sent it will see
        raise
    except MemoryError:
        say(OUT_OF_MEMORY)
        return MACHINE_CANNOT
    except Exception as error:
        import traceback

        traceback.print_exc()
        say(f"this is a bug in compress: {type(error).__name__}: {error}. Please report the lines above")
        return BUG


def among_ranks(command: Callable[[], object], kept: str = "") -> int:
    """The first process runs the command, the others what it shares out; all end with its code."""
    from compressor.quantize.machine import ranks

    if (code := guarded(ranks.join)) != DONE:
        return code
    if not ranks.leads():
        return guarded(ranks.follow)
    code = guarded(command, kept)
    ranks.dismiss(code)
    return code


def leave(code: int) -> None:
    """End the process at once: Python's own tidying up takes a tenth of a short command's time.

    Returns where Python has to end it: another thread runs, or what was printed cannot be delivered.
    """
    if threading.active_count() > 1:
        return
    atexit._run_exitfuncs()
    with suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


@contextmanager
def writing() -> Iterator[None]:
    """Around the files that a command writes beside its result. Raises: RequestError where one cannot be written."""
    try:
        yield
    except OSError as error:
        raise RequestError(f"{error.filename}: cannot be written ({in_a_line(error)}); name another place") from None


def fail_on_fallbacks(*made: Artifact, strict: bool) -> None:
    """Say what fell back in any of the stages. Raises: LimitMissedError under `--strict`."""
    fallbacks = [line for stage in made for line in stage.facts.get("fallbacks", ())]
    say(*fallbacks)
    if strict and fallbacks:
        raise LimitMissedError(f"{len(fallbacks)} fallbacks; --strict counts each")


def fail_by_verdict(report: Report, *, strict: bool) -> None:
    """Raises: LimitMissedError with every verdict but the good one."""
    verdict = report.verdict(strict=strict)
    if verdict != "passed":
        raise LimitMissedError(verdict)
