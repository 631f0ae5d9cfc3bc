"""Continuous batching by onnxruntime-genai's Engine 0.18: its scheduler, block pool and sampler, and what it lacks.

The Engine does not preempt: when every request needs a block and none is free, it reports that it is blocked, for ever.
It shares a prefix only with blocks that are filled already. A finished request keeps its place until it is closed. A
call that fails fails for all, for ever, and nobody is named. So this side admits a request when its blocks fit, holds
one whose prefix somebody is computing, sends the youngest back to the queue when the Engine is blocked (its tokens are
kept and computed again), finds out whose doing a failure is, and closes whatever ends.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from compressor.errors import MachineError, RequestError, in_a_line
from compressor.graph.paged_decoder import PAGED_CONFIG
from compressor.serve.backend import Event, Finish, Limits, Request, Tally, Usage
from compressor.serve.forecast import Forecast
from compressor.serve.turn import Turn

VERSION = "0.18."  # the Engine's interface is called experimental and moved with every release before
EVENTS_A_STEP = 256
CHUNK = 64  # tokens of one prompt in one call: attention computes all keys up to the last for each of them
BESIDE = 256  # tokens of prompts in a call that others wait for, reading their answers: of a burst, no more begin
TOKEN, FINISHED, BLOCKED, FAULT = 1, 2, 4, 8 | 16  # bits of an event's flags
RETRIES = 3  # of a call that fails where nobody can be blamed


class Engine:
    """The protocol of `backend.py` on `og.Engine`. Every call comes from the thread that made it."""

    guides = True

    def __init__(self, folder: Path, limits: Limits, vocab: int) -> None:
        self.limits, self.vocab, self.tally = limits, vocab, Tally()
        self.og = library()
        try:
            self.model = self.og.Model(self._config(folder))
            self.engine = self.og.Engine(self.model)
        except Exception as error:  # its exceptions share no base class
            raise RequestError(f"{folder}: onnxruntime-genai cannot serve it: {str(error).strip()[:300]}") from error
        self.buffer = self.engine.create_event_buffer(EVENTS_A_STEP)
        self.waiting: list[Turn] = []
        self.running: list[Turn] = []  # oldest first
        self.turn_of: dict[Any, Turn] = {}  # by its handle, which the events name
        self.ended: list[Event] = []  # between steps
        self.faults = 0  # calls that have failed since the last that did not
        self.forecast = Forecast(limits.num_blocks, limits.block_size)

    def _config(self, folder: Path) -> Any:
        config = self.og.Config(str(folder))
        config.overlay((folder / PAGED_CONFIG).read_text(encoding="utf-8"))
        sizes = {
            "num_blocks": self.limits.num_blocks,
            "block_size": self.limits.block_size,
            "max_batch_size": self.limits.max_batch,
            "max_scheduled_tokens": self.limits.max_step_tokens,
        }
        config.overlay(json.dumps({"engine": {"dynamic_batching": sizes}, "search": {"chunk_size": CHUNK}}))
        if self.limits.threads:
            threads = {"session_options": {"intra_op_num_threads": self.limits.threads}}
            config.overlay(json.dumps({"model": {"decoder": threads}}))
        return config

    def submit(self, request: Request) -> int:
        self.limits.check(request, self.vocab)
        self.tally.requests += 1
        self.tally.prompt_tokens += len(request.prompt)
        self.waiting.append(Turn(self.tally.requests, request, list(request.prompt)))
        return self.tally.requests

    def cancel(self, number: int) -> None:
        for one in [one for one in (*self.waiting, *self.running) if one.number == number]:
            self._end(one, Event(number, finish="cancelled", cached_tokens=one.cached_tokens))

    @property
    def busy(self) -> bool:
        return bool(self.waiting or self.running or self.ended)

    def usage(self) -> Usage:
        used = min(self.forecast.used(self.running), self.limits.num_blocks)
        return Usage(
            total_blocks=self.limits.num_blocks,
            free_blocks=self.limits.num_blocks - used,
            used_blocks=used,
            running=len(self.running),
            waiting=len(self.waiting),
            tally=replace(self.tally),
        )

    def step(self) -> list[Event]:
        self._admit()
        told = self._call() if self.running else []
        told, self.ended = self.ended + told, []
        return told

    def _call(self) -> list[Event]:
        """One call of the Engine."""
        if not all(one.answered for one in self.running):
            self._expect()
        told: list[Event] = []
        seen = self._read(self.engine.run(self.buffer), told)
        self.tally.steps += 1
        nothing = not seen & (TOKEN | FINISHED)
        self.faults = self.faults + 1 if nothing and seen & FAULT else 0
        if self.faults:
            self._blame()
        elif nothing and seen & BLOCKED:
            self._preempt(self.running[-1])
        return told

    def _read(self, found: Any, told: list[Event]) -> int:
        """Events of a call, ours added to `told`; returns all their flags together.

        Most bring a token and nothing else. Those are told here: what is called for each token costs a small model
        more than the arithmetic does, since the call before has emptied the caches.
        """
        seen = 0
        for at in range(len(found)):  # its iterator ends by an exception of C++, which takes as long as three requests
            raw = found[at]
            flags = raw.flags.value
            seen |= flags
            one = self.turn_of.get(raw.request)
            if one is None:
                continue
            if flags == TOKEN and one.answered and not one.again:
                token = raw.token
                one.tokens.append(token)
                told.append(Event(one.number, token, None, one.cached_tokens))
                self.tally.rows += 1
            elif flags & (TOKEN | FINISHED):
                told += self._translate(one, raw, flags)
        return seen

    # --- into the Engine and out of it --------------------------------------------------------------------------------

    def _admit(self) -> None:
        """Waiting requests in order, as long as there are places, tokens in the next call, and blocks by our forecast.

        What does not fit into a call waits: attention fills up all prompts of a call to the one with the most behind
        it, and one that is cut short is behind from then on. Of those with a grammar one is begun between two calls.
        """
        closed = any(one.suspect for one in self.running)
        for one in list(self.waiting):
            if len(self.running) == self.limits.max_batch:
                return
            if one.request.guidance and (closed or (one.suspect and self._guided())):
                closed = True  # to those behind it, too
                continue
            self.forecast.name(one)
            if self.forecast.is_awaited(one, self.running):
                continue
            if not self._has_room(one):
                return
            self._enter(one)
            if one.request.guidance:
                return  # to make its grammar took its time: those that run get their call before the next

    def _has_room(self, one: Turn) -> bool:
        """Whether the next call can read what is first of its tokens, and the pool holds the blocks it will need."""
        reading, room = self._next_call()
        if any(other.answered for other in self.running):
            room = min(room, BESIDE)
        if reading and reading + min(len(one.tokens) - self.forecast.known(one), CHUNK) > room:
            return False
        return not self.running or self.forecast.fits(one, self.running)

    def _enter(self, one: Turn) -> None:
        """From the queue into the Engine; a request that it refuses has ended."""
        self.waiting.remove(one)
        try:
            self._begin(one)
            self.running.append(one)
            self.forecast.hold(one)
        except Exception as error:  # a schema that its grammar library refuses, for one
            self.ended.append(Event(one.number, finish="refused", error=in_a_line(error)))

    def _begin(self, one: Turn) -> None:
        """A greedy request goes on from its tokens; another draws them again, from the same seed, unseen."""
        wanted, sampling = one.request, one.request.sampling
        tokens = one.tokens if one.is_greedy else list(wanted.prompt)
        one.again = 0 if one.is_greedy else one.generated
        one.handle, one.answered = self.engine.create_request(), False
        options = self.og.TurnOptions(one.handle)
        options.set_max_generated_tokens(len(wanted.prompt) + wanted.new_tokens - len(tokens))
        options.set_do_sample(sampling.temperature > 0)
        if sampling.temperature > 0:
            options.set_temperature(sampling.temperature)
            options.set_top_p(sampling.top_p)
            options.set_seed(sampling.seed)
        if wanted.guidance:
            options.set_guidance(wanted.guidance.kind, wanted.guidance.text)
        one.turn = one.handle.begin_turn(tokens, options)
        self.turn_of[one.handle] = one
        one.read = self.forecast.known(one)

    def _next_call(self) -> tuple[int, int]:
        """Tokens of prompts in it, and how many there may be: those that follow an answer come first."""
        room = self.limits.max_step_tokens - sum(one.answered for one in self.running)
        return sum(min(one.unread, CHUNK) for one in self.running), room

    def _expect(self) -> None:
        """The next call computes what follows an answer first, then prompts in their order."""
        _, room = self._next_call()
        for one in self.running:
            count = min(one.unread, room, CHUNK)
            one.read, room = one.read + count, room - count

    def _translate(self, one: Turn, raw: Any, flags: int) -> list[Event]:
        if not one.answered:
            one.answered = True
            self.forecast.fill(one)
        token = raw.token if flags & TOKEN else None
        if token is not None:
            self.tally.rows += 1
            token = self._unseen(one, token)
        if not flags & FINISHED:
            return [] if token is None else [Event(one.number, token, None, one.cached_tokens)]
        one.cached_tokens = min(raw.usage.cached_prompt_tokens, len(one.request.prompt))
        self.tally.cached_tokens += one.cached_tokens
        finish = self._reason(raw.finish_reason)
        error = f"the Engine gave up ({raw.error_code})" if finish == "failed" else ""
        self._leave(one, finished=True)
        return [Event(one.number, token, finish, one.cached_tokens, error)]

    def _unseen(self, one: Turn, token: int) -> int | None:
        """The token, unless it was delivered before a preemption."""
        if one.again:
            one.again -= 1
            return None
        one.tokens.append(token)
        return token

    def _reason(self, reason: Any) -> Finish:
        names: dict[str, Finish] = {"EOS": "stop", "STOP_STRING": "stop", "CANCELLED": "cancelled", "FAILED": "failed"}
        return names.get(reason.name, "length")

    def _preempt(self, one: Turn) -> None:
        if len(self.running) == 1:
            self._end(one, Event(one.number, finish="failed", error="the pool is too small for this request alone"))
            return
        self._leave(one)
        self.waiting.insert(0, one)
        self.tally.preemptions += 1

    def _blame(self) -> None:
        """A call failed. The grammar library fails where a character that it insists on is no token of its own.

        Of several requests with a grammar the oldest is tried alone, then the next: whose call fails is refused.
        """
        guided = self._guided()
        for one in guided:
            one.suspect = True
        for one in reversed(guided[1:]):
            self._preempt(one)
        if len(guided) == 1:
            error = "the grammar library cannot write what it asks for in this model's tokens, such as a rare character"
            self._end(guided[0], Event(guided[0].number, finish="refused", error=error))
        elif not guided and self.faults > RETRIES:
            raise MachineError("onnxruntime-genai's Engine fails at every call")

    def _guided(self) -> list[Turn]:
        return [one for one in self.running if one.request.guidance]

    def _end(self, one: Turn, event: Event) -> None:
        if one in self.running:
            self._leave(one)
        else:
            self.waiting.remove(one)
        self.ended.append(event)

    def _leave(self, one: Turn, *, finished: bool = False) -> None:
        """Out of the Engine: a request that is not closed keeps its place and its blocks."""
        self.running.remove(one)
        self.forecast.let_go(one)
        del self.turn_of[one.handle]
        if not finished:
            one.handle.cancel_turn(one.turn)
        one.handle.close()
        one.handle = None


def library() -> Any:
    """onnxruntime-genai. Raises: MachineError when it is missing or of another release."""
    try:
        import onnxruntime_genai as og
    except ImportError:
        raise MachineError(f"onnxruntime-genai is not installed; `pip install onnxruntime-genai=={VERSION}*`") from None
    if not og.__version__.startswith(VERSION):
        raise MachineError(
            f"onnxruntime-genai {og.__version__} has another Engine; {VERSION}* is the one that is known"
        )
    return og
