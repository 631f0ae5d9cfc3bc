"""OpenAI's interface over a loop: models, completions, chat completions; health and metrics.

An answer that nobody waits for is cancelled, a body that is too long is not read, a queue that is full says 429. A
server that is told to end (SIGTERM) takes nothing new and finishes what it has begun.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import uvicorn
from fastapi import FastAPI
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from pydantic import ValidationError
from starlette.requests import Request as HttpRequest

from compressor.errors import RequestError
from compressor.serve import chat_template
from compressor.serve.backend import Backend, Event, Request
from compressor.serve.loop import ClosedError, Listener, Loop, QueueFullError, Ticket
from compressor.serve.metrics import Metrics
from compressor.serve.openai_schema import Chat, Common, Completion
from compressor.serve.served import Served
from compressor.serve.text import Text

Form = TypeVar("Form", bound=Common)
PROMETHEUS = "text/plain; version=0.0.4"


@dataclass(frozen=True)
class Options:
    """What a server allows."""

    name: str  # of the model, as clients say it
    api_key: str | None = None
    max_body_bytes: int = 1 << 20
    max_new_tokens: int = 1024


class HttpError(Exception):
    """Ends a request with a status and OpenAI's form of an error."""

    def __init__(self, status: int, message: str, kind: str = "invalid_request_error") -> None:
        super().__init__(message)
        self.status, self.message, self.kind = status, message, kind


@dataclass
class Answer:
    """One request while it is answered."""

    chat: bool
    model: str
    prompt_tokens: int
    text: Text
    events: asyncio.Queue[Event]
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    begun: float = field(default_factory=time.perf_counter)
    first: float | None = None
    last: float = 0.0
    finish: str = ""
    cached_tokens: int = 0

    @property
    def new_tokens(self) -> int:
        return len(self.text.tokens)

    def head(self, kind: str) -> dict[str, Any]:
        prefix, name = ("chatcmpl", f"chat.completion{kind}") if self.chat else ("cmpl", "text_completion")
        return {"id": f"{prefix}-{self.id}", "object": name, "created": int(time.time()), "model": self.model}

    def usage(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.new_tokens,
            "total_tokens": self.prompt_tokens + self.new_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }


class Server:
    """Routes, and what they share."""

    def __init__(self, served: Served, loop: Loop, metrics: Metrics, options: Options) -> None:
        self.served, self.loop, self.metrics, self.options = served, loop, metrics, options

    def app(self) -> FastAPI:
        app = FastAPI(title="compress serve", docs_url=None, redoc_url=None, openapi_url=None, lifespan=self._life)
        app.add_api_route("/health", self.health, methods=["GET"])
        app.add_api_route("/metrics", self.scrape, methods=["GET"])
        app.add_api_route("/v1/models", self.models, methods=["GET"])
        app.add_api_route("/v1/completions", self.complete, methods=["POST"])
        app.add_api_route("/v1/chat/completions", self.chat, methods=["POST"])
        app.add_exception_handler(HttpError, _say)
        return app

    @contextlib.asynccontextmanager
    async def _life(self, app: FastAPI) -> AsyncIterator[None]:
        del app
        yield
        await asyncio.to_thread(self.loop.drain)

    # --- routes -------------------------------------------------------------------------------------------------------

    async def health(self) -> Response:
        if self.loop.failure:
            return JSONResponse({"status": "broken", "why": str(self.loop.failure)}, 503)
        return JSONResponse({"status": "ok", "running": self.loop.usage.running, "waiting": self.loop.usage.waiting})

    async def scrape(self) -> Response:
        return PlainTextResponse(self.metrics.text(self.loop.usage), media_type=PROMETHEUS)

    async def models(self, http: HttpRequest) -> Response:
        self._admit(http)
        entry = {"id": self.options.name, "object": "model", "created": 0, "owned_by": "compress"}
        return JSONResponse({"object": "list", "data": [entry]})

    async def complete(self, http: HttpRequest) -> Response:
        self._admit(http)
        form = await self._read(http, Completion)
        prompt = self._encode(form.prompt, special=True) if isinstance(form.prompt, str) else form.prompt
        return await self._answer(http, form, prompt, form.wanted, chat=False)

    async def chat(self, http: HttpRequest) -> Response:
        self._admit(http)
        form = await self._read(http, Chat)
        try:
            text = chat_template.render(self.served.folder, [one.plain() for one in form.messages])
        except RequestError as error:
            raise HttpError(400, str(error)) from None
        return await self._answer(http, form, self._encode(text, special=False), form.wanted, chat=True)

    # --- what comes in ------------------------------------------------------------------------------------------------

    def _admit(self, http: HttpRequest) -> None:
        wanted, given = self.options.api_key, http.headers.get("authorization", "")
        if wanted and not hmac.compare_digest(given.encode(), f"Bearer {wanted}".encode()):
            raise HttpError(401, "this server wants its API key", "authentication_error")

    async def _read(self, http: HttpRequest, form: type[Form]) -> Form:
        """The body, of a bounded length and of a form that is understood."""
        body = bytearray()
        async for chunk in http.stream():
            body += chunk
            if len(body) > self.options.max_body_bytes:
                raise HttpError(413, f"a request has at most {self.options.max_body_bytes} bytes")
        try:
            found = form.model_validate_json(bytes(body))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(map(str, first["loc"]))
            said = first["msg"].removeprefix("Value error, ")
            raise HttpError(400, f"{place}: {said}" if place else said) from None
        if found.model != self.options.name:
            raise HttpError(404, f"no model {found.model!r} here; it is {self.options.name!r}")
        if found.guidance and not self.loop.backend.guides:
            raise HttpError(400, "response_format: this backend cannot guide its output; --backend engine can")
        return found

    def _encode(self, text: str, *, special: bool) -> list[int]:
        return list(self.served.tokenizer.encode(text, add_special_tokens=special).ids)

    def _submit(self, form: Common, prompt: list[int], wanted: int | None, listener: Listener) -> Ticket:
        room = self.loop.backend.limits.max_tokens - len(prompt)
        new_tokens = min(room, self.options.max_new_tokens) if wanted is None else wanted
        if new_tokens > self.options.max_new_tokens:
            raise HttpError(400, f"max_tokens: {new_tokens}; this server gives at most {self.options.max_new_tokens}")
        try:
            request = Request(tuple(prompt), max(new_tokens, 1), form.sampling, form.guidance)
            return self.loop.submit(request, listener)
        except QueueFullError as error:
            raise HttpError(429, str(error), "rate_limit_error") from None
        except ClosedError as error:
            raise HttpError(503, str(error), "server_error") from None
        except RequestError as error:
            raise HttpError(400, str(error)) from None

    # --- what goes out ------------------------------------------------------------------------------------------------

    async def _answer(
        self, http: HttpRequest, form: Common, prompt: list[int], wanted: int | None, *, chat: bool
    ) -> Response:
        try:
            text = Text(self.served.tokenizer, form.stops)
        except ValueError as error:
            raise HttpError(400, str(error)) from None
        here = asyncio.get_running_loop()
        answer = Answer(chat, self.options.name, len(prompt), text, asyncio.Queue())

        def listener(event: Event) -> None:
            here.call_soon_threadsafe(answer.events.put_nowait, event)

        ticket = self._submit(form, prompt, wanted, listener)
        if form.stream:
            chunks = self._stream(answer, ticket, with_usage=form.stream_options.include_usage)
            return StreamingResponse(chunks, media_type="text/event-stream")
        return await self._whole(http, answer, ticket)

    async def _whole(self, http: HttpRequest, answer: Answer, ticket: Ticket) -> Response:
        """All of it at once, unless the client leaves before."""
        gathered = asyncio.ensure_future(self._gather(answer, ticket))
        left = asyncio.ensure_future(_until_gone(http))
        await asyncio.wait({gathered, left}, return_when=asyncio.FIRST_COMPLETED)
        left.cancel()
        if not gathered.done():
            gathered.cancel()
            return Response(status_code=499)  # nobody reads it
        text = gathered.result()
        said = {"message": {"role": "assistant", "content": text}} if answer.chat else {"text": text}
        choice = {"index": 0, "finish_reason": answer.finish, "logprobs": None, **said}
        return JSONResponse({**answer.head(""), "choices": [choice], "usage": answer.usage()})

    async def _gather(self, answer: Answer, ticket: Ticket) -> str:
        return "".join([piece async for piece in self._pieces(answer, ticket)])

    async def _stream(self, answer: Answer, ticket: Ticket, *, with_usage: bool) -> AsyncIterator[str]:
        """Server-sent events: pieces, the finish reason, usage where it is wanted, [DONE]."""
        if answer.chat:
            yield _event(answer, {"delta": {"role": "assistant", "content": ""}})
        try:
            async for piece in self._pieces(answer, ticket):
                yield _event(answer, {"delta": {"content": piece}} if answer.chat else {"text": piece})
        except HttpError as error:
            yield f"data: {json.dumps(_body(error))}\n\n"
            return
        yield _event(answer, {"delta": {}} if answer.chat else {"text": ""}, answer.finish)
        if with_usage:
            yield f"data: {json.dumps({**answer.head('.chunk'), 'choices': [], 'usage': answer.usage()})}\n\n"
        yield "data: [DONE]\n\n"

    async def _pieces(self, answer: Answer, ticket: Ticket) -> AsyncIterator[str]:
        """Text as it comes. Left before its end, by an error or by a client that is gone, the request is cancelled."""
        try:
            while not answer.finish:
                event = await answer.events.get()
                if event.finish == "failed":
                    answer.finish = "failed"
                    raise HttpError(500, event.error, "server_error")
                piece = self._take(answer, event)
                if piece:
                    yield piece
        finally:
            if not answer.finish or answer.text.stopped:
                self.loop.cancel(ticket)
            self.metrics.ended(answer.finish or "cancelled", answer.new_tokens, answer.first, answer.last)

    def _take(self, answer: Answer, event: Event) -> str:
        piece = ""
        if event.token is not None:
            seconds = time.perf_counter() - answer.begun
            answer.first = seconds if answer.first is None else answer.first
            answer.last = seconds - answer.first
            piece = answer.text.push(event.token)
        answer.cached_tokens = event.cached_tokens
        if answer.text.stopped:
            answer.finish = "stop"
        elif event.finish:
            answer.finish = event.finish
            piece += answer.text.finish()
        return piece


def _event(answer: Answer, said: dict[str, Any], finish: str | None = None) -> str:
    choice = {"index": 0, "finish_reason": finish, "logprobs": None, **said}
    return f"data: {json.dumps({**answer.head('.chunk'), 'choices': [choice]})}\n\n"


async def _until_gone(http: HttpRequest) -> None:
    """Returns when the client has closed the connection."""
    while (await http.receive())["type"] != "http.disconnect":
        pass


def _body(error: HttpError) -> dict[str, Any]:
    return {"error": {"message": error.message, "type": error.kind, "param": None, "code": None}}


async def _say(http: HttpRequest, error: Exception) -> Response:
    del http
    assert isinstance(error, HttpError)  # the only kind that this is registered for
    return JSONResponse(_body(error), error.status)


def start(served: Served, make: Callable[[], Backend], options: Options, queue: int) -> Server:
    """A server whose backend is ready. Raises: what making the backend raised."""
    metrics = Metrics()
    loop = Loop(make, queue, metrics.stepped)
    loop.start()
    return Server(served, loop, metrics, options)


def run(server: Server, host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT; then finish what was begun."""
    uvicorn.run(server.app(), host=host, port=port, log_level="warning", access_log=False)
