"""The requests of OpenAI's interface that are understood, and how they become ours.

What is not understood is refused by its name, unless it asks for what happens anyway (n = 1, no penalty): a client
that is ignored would believe that it was heard. https://platform.openai.com/docs/api-reference
"""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError

from compressor.serve.backend import Guidance, Sampling

MAX_STOPS = 4  # as OpenAI has it
LONGEST_STOP = 4096  # characters
NOTES = {"title", "description", "default", "examples", "deprecated", "$comment", "$defs", "definitions"}
# The grammar of a schema is made between two calls, while all streams wait: what the grammar library (llguidance) has
# no bound for has one here. Of 3,000 made-up schemas within them none takes a second.
LARGEST_SCHEMA = 1 << 15  # characters
MERGES = 8  # of a schema with others that hold of the same value: what they allow is multiplied
MULTIPLE = 100_000  # that numbers are held to, the least common one of all: it has as many states
ITEMS = 10_000  # that arrays are to have, at least and at most, all together: it has a rule for each
# For the grammar library: else a model that was never taught JSON may write white space for ever.
COMPACT = {"x-guidance": {"whitespace_flexible": False}}
UNSUPPORTED = "unsupported"  # the kind of error that a field of these is, with another value
# Fields that change nothing where they hold one of these.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1, None),
    "best_of": (1, None),
    "echo": (False, None),
    "suffix": (None,),
    "logprobs": (False, None),
    "top_logprobs": (None, 0),
    "logit_bias": (None, {}),
    "presence_penalty": (0, 0.0, None),
    "frequency_penalty": (0, 0.0, None),
    "tools": (None, []),
    "tool_choice": (None, "none"),
    "functions": (None, []),
    "modalities": (None, ["text"]),
    "parallel_tool_calls": (None, True, False),
}
# Fields that may be one thing or another.
EITHER = {
    "prompt": "a text or a list of tokens",
    "stop": "a string or a list of strings",
    "content": "a text or a list of parts of text",
}
UNREAD = {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"}


class Part(BaseModel):
    """A JSON object of a request; `null` is as good as leaving a field out."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

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
    schema_: dict[str, Any] = Field(alias="schema")


class ResponseFormat(Part):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @field_validator("json_schema")
    @classmethod
    def _of_bounded_size(cls, given: JsonSchema | None) -> JsonSchema | None:
        if given is None:
            return None
        if (size := len(json.dumps(given.schema_))) > LARGEST_SCHEMA:
            raise ValueError(f"a schema of {size} characters; at most {LARGEST_SCHEMA}")
        parts = list(_parts(given.schema_))
        if (merges := sum(map(_merges, parts))) > MERGES:
            raise ValueError(f"{merges} schemas are to hold beside others (allOf, keys beside $ref); at most {MERGES}")
        if math.lcm(*map(_digits, _numbers(parts, "multipleOf"))) > MULTIPLE:
            raise ValueError(f"the least common multiple of all multipleOf, points left out, is above {MULTIPLE}")
        if sum(_numbers(parts, "minItems", "maxItems")) > ITEMS:
            raise ValueError(f"minItems and maxItems come to more than {ITEMS} in all")
        return given

    @model_validator(mode="after")
    def _with_its_schema(self) -> ResponseFormat:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("type json_schema and a json_schema go together")
        return self


class TextPart(Part):
    type: Literal["text"]
    text: str


class Message(Part):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None

    def plain(self) -> dict[str, str]:
        """The message in the form that chat templates read."""
        content = self.content if isinstance(self.content, str) else "".join(one.text for one in self.content)
        return {"role": self.role, "content": content}


class Common(Part):
    """What both forms share."""

    model: str
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    seed: int | None = None
    stop: str | list[str] = []
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    response_format: ResponseFormat = ResponseFormat(type="text")

    @model_validator(mode="before")
    @classmethod
    def _only_what_is_understood(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        for name, accepted in NEUTRAL.items():
            if name in data and not any(_same(data[name], one) for one in accepted):
                said = f"{name} = {json.dumps(data[name])[:80]} is not supported; leave it out"
                raise PydanticCustomError(UNSUPPORTED, "{said}", {"said": said, "field": name})
        return {name: one for name, one in data.items() if name not in NEUTRAL and name not in UNREAD}

    @field_validator("stop")
    @classmethod
    def _few_and_short(cls, given: str | list[str]) -> list[str]:
        stops = [given] if isinstance(given, str) else given
        if len(stops) > MAX_STOPS or not all(1 <= len(one) <= LONGEST_STOP for one in stops):
            raise ValueError(f"at most {MAX_STOPS} strings of 1 to {LONGEST_STOP} characters")
        return stops

    @property
    def stops(self) -> tuple[str, ...]:
        return tuple(self.stop)

    @property
    def sampling(self) -> Sampling:
        seed = secrets.randbits(31) if self.seed is None else self.seed % 2**31
        return Sampling(self.temperature, self.top_p, seed)

    @property
    def guidance(self) -> Guidance | None:
        wanted = self.response_format
        if wanted.type == "text":
            return None
        schema = wanted.json_schema.schema_ if wanted.json_schema else {"type": "object"}
        return Guidance("json_schema", json.dumps(schema | COMPACT))


class Completion(Common):
    """POST /v1/completions."""

    prompt: str | list[int] | list[str] | list[list[int]]
    max_tokens: int | None = Field(None, ge=1)

    @field_validator("prompt")
    @classmethod
    def _one(cls, given: Any) -> Any:
        if isinstance(given, list) and len(given) > 1 and not isinstance(given[0], int):
            raise ValueError(f"one text or one list of tokens, not {len(given)}; send a request for each")
        if not given and isinstance(given, list):
            raise ValueError("it is empty; give at least one token")
        return given

    @property
    def one_prompt(self) -> str | list[int]:
        """Text or tokens, out of the list of one that some clients send."""
        if isinstance(self.prompt, list) and not isinstance(self.prompt[0], int):
            return self.prompt[0]
        return self.prompt


class Chat(Common):
    """POST /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)

    @property
    def wanted(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens


def _parts(schema: Any) -> Iterator[dict[str, Any]]:
    """A schema's JSON objects: itself, and those inside of it."""
    if isinstance(schema, dict):
        yield schema
        schema = list(schema.values())
    for one in schema if isinstance(schema, list) else []:
        yield from _parts(one)


def _merges(part: dict[str, Any]) -> int:
    """Schemas that hold of the same value as another: what `allOf` adds to its first, and what a `$ref` refers to where
    keys stand beside it."""
    together = part.get("allOf")
    own = max(len(together) - 1, 0) if isinstance(together, list) else 0
    return own + ("$ref" in part and bool(part.keys() - NOTES - {"$ref"}))


def _numbers(parts: list[dict[str, Any]], *names: str) -> Iterator[int | float]:
    """What stands under these names, without its sign. Nothing and infinity are left out: the library refuses them."""
    found = (part.get(name) for part in parts for name in names)
    return (abs(one) for one in found if isinstance(one, int | float) and 0 < abs(one) < math.inf)


def _digits(number: float) -> int:
    """0.25 -> 25: the number that the grammar library counts to."""
    return int(f"{Decimal(str(number)).normalize():f}".replace(".", ""))


def explain(error: ValidationError) -> tuple[str | None, str]:
    """The field that is wrong first, and a line that says so."""
    first = error.errors(include_url=False)[0]
    if first["type"] == UNSUPPORTED:
        return first["ctx"]["field"], first["msg"]
    place = first["loc"]
    either = next((at for at, name in enumerate(place[:-1]) if name in EITHER), None)
    if either is not None:  # what follows names the alternatives, as Python has them
        place, said = place[: either + 1], f"it is to be {EITHER[str(place[either])]}"
    else:
        said = first["msg"].removeprefix("Value error, ")
    where = ".".join(map(str, place))
    return str(place[0]) if place else None, f"{where}: {said}" if where else said


def _same(one: Any, other: Any) -> bool:
    """Equal and of one type: `logprobs` 0 asks for something, and False does not."""
    return type(one) is type(other) and bool(one == other)
