"""The server over a real socket: OpenAI's forms, errors with their status, and clients that leave."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from compressor.serve.served import Served
from tests.serve.client import PATIENCE, PROMPT, UNENDING, Client, held_to, request_bytes, text_of, until
from tests.serve.conftest import Subject
from tests.serve.scripted import Scripted

uvicorn = pytest.importorskip("uvicorn", reason="the server is not installed; `pip install .[serve]`")
pytest.importorskip("onnxruntime_genai", reason="onnxruntime-genai is not installed; `pip install .[genai]`")

from compressor.serve import http as serving  # noqa: E402  after the skips


@contextlib.contextmanager
def serving_at(folder: Path, backend: str | Scripted = "engine", queue: int = 64, **options: Any) -> Iterator[Client]:
    """A server in this process, on a free port."""
    served = Served.open(folder)
    limits = served.limits(4, cache_tokens=1024, threads=1)
    make = served.backend(backend, limits) if isinstance(backend, str) else lambda: backend
    server = serving.start(served, make, serving.Options("tiny", **options), queue)
    runner = uvicorn.Server(uvicorn.Config(server.app(), port=0, log_level="warning"))
    thread = threading.Thread(target=runner.run)
    thread.start()
    until(lambda: runner.started)
    yield Client(runner.servers[0].sockets[0].getsockname()[1])
    runner.should_exit = True
    thread.join(PATIENCE)
    assert not thread.is_alive()


@pytest.fixture(scope="module")
def client(tiny: Callable[[int | None], Subject]) -> Iterator[Client]:
    with serving_at(tiny(4).folder) as found:
        yield found


def test_models_health_and_metrics(client: Client) -> None:
    assert [one["id"] for one in client.ask("/v1/models")[1]["data"]] == ["tiny"]
    assert client.ask("/health")[1]["status"] == "ok"
    client.complete()
    assert client.gauge("cache_blocks") == 64
    assert client.gauge("generated_tokens_total") >= 12
    assert client.gauge("time_to_first_token_seconds_count") >= 1


def test_whole_and_streamed_say_the_same(client: Client, tiny: Callable[[int | None], Subject]) -> None:
    status, whole = client.complete()
    assert status == 200
    choice, tokenizer = whole["choices"][0], tiny(4).served.tokenizer
    assert choice["finish_reason"] == "length"
    assert whole["usage"] | {"prompt_tokens_details": 0} == {
        "prompt_tokens": len(tokenizer.encode("Two cats").ids),
        "completion_tokens": 12,
        "total_tokens": len(tokenizer.encode("Two cats").ids) + 12,
        "prompt_tokens_details": 0,
    }
    chunks = client.stream(stream_options={"include_usage": True})
    assert text_of(chunks) == choice["text"]
    assert chunks[-2]["choices"][0]["finish_reason"] == "length"
    assert chunks[-1]["usage"]["completion_tokens"] == 12
    ids = tokenizer.encode("Two cats").ids
    assert client.complete(prompt=ids)[1]["choices"][0]["text"] == choice["text"]


def test_a_stop_ends_and_a_seed_repeats(client: Client) -> None:
    whole = client.complete()[1]["choices"][0]["text"]
    stop = whole[len(whole) // 2 :][:3]
    cut = client.complete(stop=stop)[1]["choices"][0]
    assert (cut["text"], cut["finish_reason"]) == (whole[: whole.index(stop)], "stop")
    one, same, other = (client.complete(temperature=1, seed=seed)[1]["choices"][0]["text"] for seed in (1, 1, 2))
    assert one == same != other


SAID = "na\u00efve \N{SNOWMAN}\N{CAT FACE} says \u65e5\u672c"  # each beyond ASCII takes two to four of its tokens


@pytest.mark.parametrize("stop", [None, "\N{CAT FACE} s", "\u672c", "\N{SNOWMAN}\N{SNOWMAN}"])
def test_a_character_of_several_tokens_is_whole(stop: str | None, tiny: Callable[[int | None], Subject]) -> None:
    """In each piece of a stream, and with a stop that ends or begins inside a token."""
    folder = tiny(4).folder
    tokens = tiny(4).served.tokenizer.encode(SAID).ids
    assert len(tokens) > len(SAID)
    with serving_at(folder, Scripted(tokens)) as client:
        whole = client.complete(stop=stop)[1]["choices"][0]
        pieces = [one["choices"][0]["text"] for one in client.stream(stop=stop)]
    assert "".join(pieces) == whole["text"] == SAID.partition(stop or "nowhere")[0]
    assert not any("\N{REPLACEMENT CHARACTER}" in one for one in pieces)
    assert whole["finish_reason"] == ("stop" if stop and stop in SAID else "length")


def test_a_chat_is_what_the_models_template_makes_of_it(tiny: Callable[[int | None], Subject], tmp_path: Path) -> None:
    folder = tmp_path / "chatty"
    shutil.copytree(tiny(4).folder, folder)
    template = "{% for one in messages %}{{ one.role }}: {{ one.content }} {% endfor %}assistant:"
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    tokenizer = Served.open(folder).tokenizer
    backend = Scripted(tokenizer.encode(SAID).ids)
    parts = [{"type": "text", "text": "Two "}, {"type": "text", "text": "cats"}]
    form = {"messages": [{"role": "system", "content": "Count."}, {"role": "user", "content": parts}]}
    with serving_at(folder, backend) as client:
        status, whole = client.ask("/v1/chat/completions", form | {"model": "tiny", "max_completion_tokens": 40})
        chunks = client.stream("/v1/chat/completions", **form, prompt=None)
    expected = tokenizer.encode("system: Count. user: Two cats assistant:", add_special_tokens=False).ids
    assert [list(one.prompt) for one in backend.asked] == [expected] * 2
    assert (status, whole["object"]) == (200, "chat.completion")
    assert whole["choices"][0]["message"] == {"role": "assistant", "content": SAID}
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(one["choices"][0]["delta"].get("content", "") for one in chunks) == SAID
    assert chunks[-1]["choices"][0] | {"logprobs": None} == {
        "index": 0, "delta": {}, "finish_reason": "length", "logprobs": None
    }  # fmt: skip


def test_output_can_be_held_to_a_schema(client: Client) -> None:
    schema = {"type": "object", "properties": {"n": {"enum": [7]}}, "required": ["n"], "additionalProperties": False}
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    text = client.complete(response_format=form, max_tokens=60)[1]["choices"][0]["text"]
    assert json.loads(text) == {"n": 7}


# The library goes over the product of their automata: of twelve for seconds, of twenty without end, and all wait.
INTERSECTED = {"allOf": [{"type": "string", "pattern": f".*a{each}.*"} for each in range(20)]}


@pytest.mark.parametrize(
    ("changes", "status", "why"),
    [
        ({"model": "other"}, 404, "no model 'other'"),
        ({"n": 2}, 400, "n = 2 is not supported"),
        ({"n": True}, 400, "n = true is not supported"),
        ({"logprobs": 0}, 400, "logprobs = 0 is not supported"),  # OpenAI gives that of the token itself
        ({"max_tokens": "12"}, 400, "max_tokens: Input should be a valid integer"),
        ({"stream": "yes"}, 400, "stream: Input should be a valid boolean"),
        ({"prompt": 5}, 400, "prompt: it is to be a text or a list of tokens"),
        ({"prompt": [1.5]}, 400, "prompt: it is to be a text or a list of tokens"),
        ({"prompt": ""}, 400, "prompt: it has no token"),
        ({"prompt": []}, 400, "prompt: it is empty"),
        ({"prompt": ["One", "Two"]}, 400, "prompt: one text or one list of tokens, not 2"),
        ({"stop": 5}, 400, "stop: it is to be a string or a list of strings"),
        ({"stop": ["x" * 5000]}, 400, "stop: at most 4 strings of 1 to 4096 characters"),
        ({"stop": ""}, 400, "stop: at most 4 strings of 1 to 4096 characters"),
        ({"response_format": {"type": "json_schema"}}, 400, "type json_schema and a json_schema go together"),
        (held_to({"enum": ["x" * 40000]}), 400, "response_format.json_schema: a schema of 40014 characters; at most"),
        (held_to(INTERSECTED), 400, "response_format.json_schema: 19 schemas are to hold beside others"),
        (held_to({"type": "integer", "multipleOf": 10**7 + 19}), 400, "the least common multiple of all multipleOf"),
        (held_to({"type": "number", "multipleOf": -77.7777}), 400, "the least common multiple of all multipleOf"),
        (held_to({"allOf": [{"multipleOf": one} for one in (13, 17, 19, 23, 29)]}), 400, "the least common multiple"),
        (held_to({"type": "array", "maxItems": 10**9}), 400, "minItems and maxItems come to more than 10000 in all"),
        ({"tempreature": 1}, 400, "tempreature"),
        ({"temperature": 3}, 400, "temperature"),
        ({"max_tokens": 0}, 400, "max_tokens"),
        ({"max_tokens": 5000}, 400, "at most 1024"),
        ({"prompt": [5] * 600}, 400, "Shorten the prompt"),
        ({"prompt": [9999]}, 400, "vocabulary"),
        ({"stop": ["a", "b", "c", "d", "e"]}, 400, "at most 4"),
        ({"prompt": "x" * (1 << 20)}, 413, "at most"),
    ],
)
def test_a_wrong_request_is_told_why(changes: dict[str, Any], status: int, why: str, client: Client) -> None:
    found, body = client.complete(**changes)
    assert found == status
    assert why in body["error"]["message"]
    assert body["error"]["type"] == "invalid_request_error"


def test_multiples_of_prices_and_days_are_no_great_matter(client: Client) -> None:
    schema = {"properties": {"price": {"multipleOf": 0.01}, "seconds": {"multipleOf": 86400}, "multipleOf": {}}}
    assert client.complete(**held_to(schema))[0] == 200


@pytest.mark.parametrize("stream", [False, True])
def test_a_schema_that_nobody_understands_is_the_clients_error(stream: bool, client: Client) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "nonsense"}}}
    status, body = client.complete(response_format=form, stream=stream)
    assert (status, body["error"]["param"]) == (400, "response_format")
    assert "nonsense" in body["error"]["message"]


def test_a_guided_stream_is_whole(client: Client) -> None:
    schema = {"type": "object", "properties": {"n": {"enum": [7]}}, "required": ["n"], "additionalProperties": False}
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    assert json.loads(text_of(client.stream(response_format=form, max_tokens=60))) == {"n": 7}


def test_a_list_of_one_prompt_is_that_prompt(client: Client) -> None:
    texts = [client.complete(prompt=one)[1]["choices"][0]["text"] for one in ("Two cats", ["Two cats"])]
    assert texts[0] == texts[1]


def test_every_error_has_openais_form(client: Client) -> None:
    for path, body, status in (
        ("/v1/nothing", None, 404),
        ("/v1/completions", None, 405),
        ("/v1/models/other", None, 404),
    ):
        found, said = client.ask(path, body)
        assert (found, said["error"]["type"]) == (status, "invalid_request_error")
    assert client.ask("/v1/models/tiny")[1]["id"] == "tiny"


def test_what_is_not_supported_is_told_by_its_field(client: Client) -> None:
    for name, value in (("n", 2), ("logprobs", 1), ("tools", [{"type": "function"}])):
        assert client.complete(**{name: value})[1]["error"]["param"] == name


def test_a_balancer_may_ask_for_the_head_alone(client: Client) -> None:
    connection = client.connect()
    connection.request("HEAD", "/health")
    response = connection.getresponse()
    assert (response.status, response.read()) == (200, b"")
    connection.close()


def test_a_body_that_does_not_come_is_not_waited_for(tiny: Callable[[int | None], Subject]) -> None:
    with serving_at(tiny(4).folder, body_seconds=0.2) as client, client.stalled() as stalled:
        assert stalled.recv(100).startswith(b"HTTP/1.1 408 ")


def test_what_is_no_request_is_told_so(client: Client) -> None:
    assert client.ask("/v1/completions", b"{half")[0] == 400
    assert client.ask("/v1/completions", b"[]")[0] == 400
    status, body = client.ask("/v1/chat/completions", {"model": "tiny", "messages": [{"role": "user", "content": "a"}]})
    assert (status, "no chat template" in body["error"]["message"]) == (400, True)
    assert client.complete()[0] == 200


def test_many_streams_at_once_are_each_right(client: Client) -> None:
    """24 readers over four places: long and short, and one that reads a byte at a time."""
    lengths = [3 + (index * 7) % 30 for index in range(24)]
    expected = {size: client.complete(max_tokens=size)[1]["choices"][0]["text"] for size in set(lengths)}
    steps = client.gauge("step_seconds_count")
    slow = threading.Thread(target=read_slowly, args=(client,))
    slow.start()
    with ThreadPoolExecutor(24) as pool:
        found = list(pool.map(lambda size: text_of(client.stream(max_tokens=size)), lengths))
    slow.join()
    assert found == [expected[size] for size in lengths]
    assert client.gauge("step_seconds_count") - steps < sum(lengths)
    assert client.gauge("cache_blocks_used") == 0


def read_slowly(client: Client) -> None:
    with socket.create_connection(("127.0.0.1", client.port), PATIENCE) as reader:
        reader.sendall(request_bytes())
        for _ in range(50):
            reader.recv(1)
            time.sleep(0.005)


def test_a_completion_that_names_no_length_has_one_that_the_server_gives(
    tiny: Callable[[int | None], Subject],
) -> None:
    for most, given in ((8, 8), (64, 16)):
        backend = Scripted([5])
        with serving_at(tiny(4).folder, backend, max_new_tokens=most) as client:
            assert client.complete(max_tokens=None)[0] == 200
        assert [one.new_tokens for one in backend.asked] == [given]


@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_that_nobody_waits_for_is_cancelled(stream: bool, client: Client) -> None:
    before = client.cancelled()
    with socket.create_connection(("127.0.0.1", client.port), PATIENCE) as reader:
        reader.sendall(request_bytes(**UNENDING, stream=stream))
        until(lambda: client.gauge("requests_running") > 0)
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # gone as if it were killed
    until(lambda: client.gauge("requests_running") == 0 and client.gauge("cache_blocks_used") == 0)
    until(lambda: client.cancelled() == before + 1)
    assert client.complete()[0] == 200


def test_a_full_queue_is_said_at_once_and_a_key_is_asked_for(tiny: Callable[[int | None], Subject]) -> None:
    key = {"Authorization": "Bearer secret"}
    with serving_at(tiny(4).folder, "reference", queue=1, api_key="secret") as client:
        assert client.complete()[0] == 401
        assert client.ask("/v1/completions", PROMPT, Authorization="Bearer wrong")[0] == 401
        form = PROMPT | {"response_format": {"type": "json_object"}}
        assert client.ask("/v1/completions", form, **key)[0] == 400  # the reference does not guide
        with ThreadPoolExecutor(16) as pool:
            long = PROMPT | {"max_tokens": 200, "prompt": "One"}
            statuses = list(pool.map(lambda _: client.ask("/v1/completions", long, **key)[0], range(16)))
    assert set(statuses) == {200, 429}
    assert statuses.count(200) >= 5  # four places and one in the queue


def test_a_port_that_is_taken_is_said_before_anything_is_loaded(
    tiny: Callable[[int | None], Subject], compress: Callable[..., tuple[int, str, str]]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, _, said = compress("serve", tiny(4).folder, "--port", port)
    assert code == 3
    assert said.splitlines() == [f"compress: --host 127.0.0.1 --port {port}: Address already in use; choose another"]
