"""One answer while it is made, and how it and an error look to a client of OpenAI's interface."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from compressor.serve.backend import Event
from compressor.serve.text import Text


class HttpError(Exception):
    """Ends a request with a status and OpenAI's form of an error."""

    def __init__(
        self, status: int, message: str, kind: str = "invalid_request_error", field: str | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.kind, self.field = status, message, kind, field

    def body(self) -> dict[str, Any]:
        return {"error": {"message": self.message, "type": self.kind, "param": self.field, "code": None}}


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
    early: list[Event] = field(default_factory=list)  # looked at before its turn

    @property
    def new_tokens(self) -> int:
        return len(self.text.tokens)

    async def event(self) -> Event:
        return self.early.pop() if self.early else await self.events.get()

    def take(self, event: Event) -> str:
        """What an event adds to the text."""
        piece = ""
        if event.token is not None:
            seconds = time.perf_counter() - self.begun
            self.first = seconds if self.first is None else self.first
            self.last = seconds - self.first
            piece = self.text.push(event.token)
        self.cached_tokens = event.cached_tokens
        if self.text.stopped:
            self.finish = "stop"
        elif event.finish:
            self.finish = event.finish
            piece += self.text.finish()
        return piece

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

    def chunk(self, said: dict[str, Any], finish: str | None = None) -> str:
        """A server-sent event of a stream."""
        choice = {"index": 0, "finish_reason": finish, "logprobs": None, **said}
        return f"data: {json.dumps({**self.head('.chunk'), 'choices': [choice]})}\n\n"

    def whole(self, text: str) -> dict[str, Any]:
        """The whole answer, for a client that does not stream."""
        said = {"message": {"role": "assistant", "content": text}} if self.chat else {"text": text}
        choice = {"index": 0, "finish_reason": self.finish, "logprobs": None, **said}
        return {**self.head(""), "choices": [choice], "usage": self.usage()}
