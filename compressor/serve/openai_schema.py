"""The requests of OpenAI's interface that are understood, and how they become ours.

What is not understood is refused by its name, unless it asks for what happens anyway (n = 1, no penalty): a client
that is ignored would believe that it was heard. https://platform.openai.com/docs/api-reference
"""

from __future__ import annotations

import json
import secrets
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from compressor.serve.backend import Guidance, Sampling

MAX_STOPS = 4  # as OpenAI has it
# For the grammar library (llguidance): else a model that was never taught JSON may write white space for ever.
COMPACT = {"x-guidance": {"whitespace_flexible": False}}
# Fields that change nothing where they hold one of these.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1, None),
    "best_of": (1, None),
    "echo": (False, None),
    "suffix": (None,),
    "logprobs": (False, None),
    "top_logprobs": (None, 0),
    "logit_bias": (None, {}),
    "presence_penalty": (0, None),
    "frequency_penalty": (0, None),
    "tools": (None, []),
    "tool_choice": (None, "none"),
    "functions": (None, []),
    "modalities": (None, ["text"]),
    "parallel_tool_calls": (None, True, False),
}
UNREAD = {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"}


class Part(BaseModel):
    """A JSON object of a request; `null` is as good as leaving a field out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, data: Any) -> Any:
        return {name: one for name, one in data.items() if one is not None} if isinstance(data, dict) else data


class StreamOptions(Part):
    include_usage: bool = False


class JsonSchema(Part):
    name: str = ""
    description: str = ""
    strict: bool = True
    schema_: dict[str, Any] = Field({"type": "object"}, alias="schema")


class ResponseFormat(Part):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema = JsonSchema()


class TextPart(Part):
    type: Literal["text"]
    text: str


class Message(Part):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None

    def plain(self) -> dict[str, str]:
        """As chat templates read it."""
        content = self.content if isinstance(self.content, str) else "".join(one.text for one in self.content)
        return {"role": self.role, "content": content}


class Common(Part):
    """What both forms share."""

    model: str
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    seed: int | None = None
    stop: str | list[str] = Field([], max_length=4096)
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    response_format: ResponseFormat = ResponseFormat(type="text")

    @model_validator(mode="before")
    @classmethod
    def _only_what_is_understood(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        for name, accepted in NEUTRAL.items():
            if name in data and data[name] not in accepted:
                raise ValueError(f"{name} = {json.dumps(data[name])[:80]} is not supported; leave it out")
        return {name: one for name, one in data.items() if name not in NEUTRAL and name not in UNREAD}

    @property
    def stops(self) -> tuple[str, ...]:
        given = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
        if len(given) > MAX_STOPS or "" in given:
            raise ValueError(f"stop: at most {MAX_STOPS} strings, none of them empty")
        return given

    @property
    def sampling(self) -> Sampling:
        seed = secrets.randbits(31) if self.seed is None else self.seed % 2**31
        return Sampling(self.temperature, self.top_p, seed)

    @property
    def guidance(self) -> Guidance | None:
        wanted = self.response_format
        if wanted.type == "text":
            return None
        schema = wanted.json_schema.schema_ if wanted.type == "json_schema" else {"type": "object"}
        return Guidance("json_schema", json.dumps(schema | COMPACT))


class Completion(Common):
    """POST /v1/completions."""

    prompt: str | list[int]
    max_tokens: int = Field(16, ge=1)

    @property
    def wanted(self) -> int | None:
        """New tokens; none: as many as fit."""
        return self.max_tokens


class Chat(Common):
    """POST /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)

    @property
    def wanted(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens
