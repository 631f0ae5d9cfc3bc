"""OpenAI's interface over a loop: models, completions, chat completions; health and metrics.

An answer that nobody waits for is cancelled, a body that is too long or does not come is not read, a queue that is full
says 429. A server that is told to end (SIGTERM) takes nothing new and finishes what it has begun, in a bounded time: a
client that has stopped reading or writing cannot keep it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import logging
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import uvicorn
from fastapi import FastAPI
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest

from compressor.errors import MachineError, RequestError
from compressor.serve import chat_template
from compressor.serve.answers import Answer, HttpError
from compressor.serve.backend import Backend, Event, Request
from compressor.serve.loop import ClosedError, Listener, Loop, QueueFullError, Ticket
from compressor.serve.metrics import Metrics
from compressor.serve.openai_schema import Chat, Common, Completion, explain
from compressor.serve.served import Served
from compressor.serve.text import Text

Form = TypeVar("Form", bound=Common)
COMPLETION_TOKENS = 16  # of a completion that names no number, as OpenAI has it
PROMETHEUS = "text/plain; version=0.0.4"
ROUTES = {
    "/health": ("GET", "health"),
    "/metrics": ("GET", "scrape"),
    "/v1/models": ("GET", "models"),
    "/v1/models/{name}": ("GET", "model"),
    "/v1/completions": ("POST", "complete"),
    "/v1/chat/completions": ("POST", "chat"),
}


@dataclass(frozen=True)
class Options:
    """What a server allows."""

    name: str  # of the model, as clients say it
    api_key: str | None = None
    max_body_bytes: int = 1 << 20
    max_new_tokens: int = 1024
    body_seconds: float = 30  # in which a request has to have come
    drain_seconds: int = 60  # that what is under way gets when the server is told to end


class Server:
    """Routes, and what they share."""

    def __init__(self, served: Served, loop: Loop, metrics: Metrics, options: Options) -> None:
        self.served, self.loop, self.metrics, self.options = served, loop, metrics, options

    def app(self) -> FastAPI:
        app = FastAPI(title="compress serve", docs_url=None, redoc_url=None, openapi_url=None, lifespan=self._life)
        for path, (method, name) in ROUTES.items():
            app.add_api_route(path, getattr(self, name), methods=["GET", "HEAD"] if method == "GET" else [method])
        for kind in (HttpError, HTTPException, Exception):
            app.add_exception_handler(kind, _say)
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
        return JSONResponse({"object": "list", "data": [self._entry()]})

    async def model(self, http: HttpRequest, name: str) -> Response:
        self._admit(http)
        self._known(name)
        return JSONResponse(self._entry())

    def _entry(self) -> dict[str, Any]:
        return {"id": self.options.name, "object": "model", "created": 0, "owned_by": "compress"}

    def _known(self, name: str) -> None:
        if name != self.options.name:
            raise HttpError(404, f"no model {name!r} here; it is {self.options.name!r}", field="model")

    async def complete(self, http: HttpRequest) -> Response:
        self._admit(http)
        form = await self._read(http, Completion)
        given = form.one_prompt
        prompt = self._encode(given, special=True) if isinstance(given, str) else given
        if not prompt:
            raise HttpError(400, "prompt: it has no token, and this tokenizer begins a text with none", field="prompt")
        wanted = form.max_tokens or min(COMPLETION_TOKENS, self.options.max_new_tokens)
        return await self._answer(http, form, prompt, wanted, chat=False)

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
        try:
            async with asyncio.timeout(self.options.body_seconds):
                body = await self._body(http)
        except TimeoutError:
            raise HttpError(408, f"the request did not come within {self.options.body_seconds:g} seconds") from None
        try:
            found = form.model_validate_json(body)
        except ValidationError as error:
            field, said = explain(error)
            raise HttpError(400, said, field=field) from None
        self._known(found.model)
        if found.guidance and not self.loop.backend.guides:
            raise HttpError(400, "response_format: this backend cannot guide its output; --backend engine can")
        return found

    async def _body(self, http: HttpRequest) -> bytes:
        body = bytearray()
        async for chunk in http.stream():
            body += chunk
            if len(body) > self.options.max_body_bytes:
                raise HttpError(413, f"a request has at most {self.options.max_body_bytes} bytes")
        return bytes(body)

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
        text = Text(self.served.tokenizer, form.stops)
        here = asyncio.get_running_loop()
        answer = Answer(chat, self.options.name, len(prompt), text, asyncio.Queue())

        def listener(event: Event) -> None:
            here.call_soon_threadsafe(answer.events.put_nowait, event)

        ticket = self._submit(form, prompt, wanted, listener)
        if form.stream:
            if form.guidance:
                await self._begun(answer)
            chunks = self._stream(answer, ticket, with_usage=form.stream_options.include_usage)
            return StreamingResponse(chunks, media_type="text/event-stream")
        return await self._whole(http, answer, ticket)

    async def _begun(self, answer: Answer) -> None:
        """Wait for the first event: a schema that is refused is an error with its status, not the end of a stream."""
        first = await answer.event()
        if first.finish == "refused":
            self.metrics.ended(first.finish, 0, None, 0.0)
            raise _fault(first)
        answer.early.append(first)

    async def _whole(self, http: HttpRequest, answer: Answer, ticket: Ticket) -> Response:
        """The whole answer in one response, unless the client leaves before."""
        gathered = asyncio.ensure_future(self._gather(answer, ticket))
        left = asyncio.ensure_future(_until_gone(http))
        try:
            await asyncio.wait({gathered, left}, return_when=asyncio.FIRST_COMPLETED)
            if not gathered.done():
                return Response(status_code=499)  # nobody reads it
            return JSONResponse(answer.whole(gathered.result()))
        finally:  # also when the server's patience ends
            left.cancel()
            gathered.cancel()

    async def _gather(self, answer: Answer, ticket: Ticket) -> str:
        return "".join([piece async for piece in self._pieces(answer, ticket)])

    async def _stream(self, answer: Answer, ticket: Ticket, *, with_usage: bool) -> AsyncIterator[str]:
        """Server-sent events: pieces, the finish reason, usage where it is wanted, [DONE]."""
        if answer.chat:
            yield answer.chunk({"delta": {"role": "assistant", "content": ""}})
        try:
            async for piece in self._pieces(answer, ticket):
                yield answer.chunk({"delta": {"content": piece}} if answer.chat else {"text": piece})
        except HttpError as error:
            yield f"data: {json.dumps(error.body())}\n\n"
            return
        yield answer.chunk({"delta": {}} if answer.chat else {"text": ""}, answer.finish)
        if with_usage:
            yield f"data: {json.dumps({**answer.head('.chunk'), 'choices': [], 'usage': answer.usage()})}\n\n"
        yield "data: [DONE]\n\n"

    async def _pieces(self, answer: Answer, ticket: Ticket) -> AsyncIterator[str]:
        """Text as it comes. Left before its end, by an error or by a client that is gone, the request is cancelled."""
        try:
            while not answer.finish:
                event = await answer.event()
                if event.finish in ("failed", "refused"):
                    answer.finish = event.finish
                    raise _fault(event)
                piece = answer.take(event)
                if piece:
                    yield piece
        finally:
            if not answer.finish or answer.text.stopped:
                self.loop.cancel(ticket)
            self.metrics.ended(answer.finish or "cancelled", answer.new_tokens, answer.first, answer.last)


async def _until_gone(http: HttpRequest) -> None:
    """Returns when the client has closed the connection."""
    while (await http.receive())["type"] != "http.disconnect":
        pass


def _fault(event: Event) -> HttpError:
    """The error for the client: 400 where its request was at fault, 500 where the server was."""
    if event.finish == "refused":
        return HttpError(400, f"response_format: {event.error}", field="response_format")
    return HttpError(500, event.error, "server_error")


async def _say(http: HttpRequest, error: Exception) -> Response:
    """Every error in OpenAI's form: ours, a path or method that does not exist, and a bug."""
    if isinstance(error, HttpError):
        return JSONResponse(error.body(), error.status)
    if isinstance(error, HTTPException):
        said = f"{http.method} {http.url.path}: {error.detail}; there are {', '.join(ROUTES)}"
        return JSONResponse(HttpError(error.status_code, said).body(), error.status_code, error.headers)
    said = f"this is a bug in compress: {type(error).__name__}: {error}"
    return JSONResponse(HttpError(500, said, "server_error").body(), 500)


def listen(host: str, port: int) -> socket.socket:
    """The socket that a server will answer at. Raises: MachineError where it cannot be had."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family)
    except OSError as error:
        said = str(error.strerror).partition(" (")[0]  # Python adds the address once more
        raise MachineError(f"--host {host} --port {port}: {said}; choose another") from None


def start(served: Served, make: Callable[[], Backend], options: Options, queue: int) -> Server:
    """A server whose backend is ready. Raises: what making the backend raised, RequestError for a broken tokenizer."""
    served.tokenizer  # noqa: B018  read now, not by the first request
    metrics = Metrics()
    loop = Loop(make, queue, metrics.stepped)
    loop.start()
    return Server(served, loop, metrics, options)


def run(server: Server, place: socket.socket) -> None:
    """Serve until SIGTERM or SIGINT, then finish what was begun: that is how a server ends, and no interruption."""
    patience = server.options.drain_seconds
    config = uvicorn.Config(server.app(), log_level="warning", access_log=False, timeout_graceful_shutdown=patience)
    logging.getLogger("uvicorn.error").addFilter(_is_worth_a_line)
    with contextlib.suppress(KeyboardInterrupt):  # which uvicorn raises anew after its orderly end
        uvicorn.Server(config).run(sockets=[place])


def _is_worth_a_line(record: logging.LogRecord) -> bool:
    """False for the traceback of a request that was cut off at the end: uvicorn has said how many there were."""
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))
