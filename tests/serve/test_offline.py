"""`compress generate`: prompts of a file into a file, the same for either batching; a run that was ended goes on."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from compressor.graph.paged_decoder import PAGED_CONFIG, PAGED_MODEL
from compressor.serve.backend import Event
from compressor.serve.reference import Reference
from tests.conftest import Outcome
from tests.serve.conftest import Subject

LINES: list[dict[str, Any]] = [
    {"prompt": "Two cats", "max_tokens": 12},
    {"prompt": "One fox and", "max_tokens": 5, "id": "fox"},
    {"tokens": [5, 6, 7], "max_tokens": 9},
    {"prompt": "Two cats", "max_tokens": 12, "temperature": 1, "seed": 3},
    {"prompt": "Two cats", "max_tokens": 12, "stop": " cats"},
]


def answers(path: Path) -> dict[Any, dict[str, Any]]:
    return {one["id"]: one for one in map(json.loads, path.read_text(encoding="utf-8").splitlines())}


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join(map(json.dumps, LINES)) + "\n", encoding="utf-8")
    return path


def test_both_batchings_answer_the_same_and_a_second_run_goes_on(
    compress: Callable[..., Outcome], tiny: Callable[[int | None], Subject], prompts: Path, tmp_path: Path
) -> None:
    folder, found = tiny(4).folder, []
    for batching in ("continuous", "static"):
        place = tmp_path / f"{batching}.jsonl"
        call = ("generate", folder, "--prompts", prompts, "-o", place, "--batching", batching, "--max-batch", 2)
        assert compress(*call, "--backend", "reference", "--json").json()["answered"] == len(LINES)
        found.append(answers(place))
    assert found[0] == found[1]
    assert set(found[0]) == {0, "fox", 2, 3, 4}
    assert " cats" not in found[0][4]["text"]
    assert len(found[0][2]["tokens"]) == 9
    lines = place.read_text(encoding="utf-8").splitlines(keepends=True)
    place.write_text("".join(lines[:2]) + lines[2][:10], encoding="utf-8")  # killed while it wrote the third
    assert compress(*call, "--backend", "reference", "--json").json()["answered"] == len(LINES) - 2
    assert answers(place) == found[1]


def test_lines_that_are_not_answers_are_kept(
    compress: Callable[..., Outcome], tiny: Callable[[int | None], Subject], prompts: Path, tmp_path: Path
) -> None:
    place, held = tmp_path / "log.jsonl", '{"error": "disk"}\n{"id": 3, "error": "fan"}\n"an error"\n'
    place.write_text(held)
    ended = compress("generate", tiny(4).folder, "--prompts", prompts, "-o", place, "--backend", "reference")
    assert (ended.code, place.read_text()) == (2, held)
    assert "holds lines that are not answers" in ended.err


def refusing(backend: Reference) -> list[Event]:
    """A step in which all that wait fail."""
    failed = [Event(one.number, finish="failed", error="no device") for one in backend.waiting]
    backend.waiting.clear()
    return failed


def test_a_line_ends_at_a_newline_alone_and_what_failed_is_asked_again(
    compress: Callable[..., Outcome],
    tiny: Callable[[int | None], Subject],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """JSON may hold U+2028 and U+0085 as they are, at which Python ends lines."""
    prompts, place = tmp_path / "prompts.jsonl", tmp_path / "out.jsonl"
    lines = [{"prompt": f"Two{end}cats", "max_tokens": 2, "id": f"a{end}b"} for end in "\u2028\x85"]
    prompts.write_text("".join(f"{json.dumps(one, ensure_ascii=False)}\n" for one in lines), encoding="utf-8")
    call = ("generate", tiny(4).folder, "--prompts", prompts, "-o", place, "--backend", "reference", "--json")
    with monkeypatch.context() as broken:
        broken.setattr(Reference, "step", refusing)
        ended = compress(*call)
    assert (ended.code, ended.json()["answered"]) == (1, 0)
    assert f"2 prompts have no answer, as {prompts}:1: no device" in ended.err
    assert compress(*call).json()["answered"] == 2
    assert compress(*call).json()["answered"] == 0
    assert place.read_text(encoding="utf-8").count("\n") == 2


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "prompts.jsonl:1: not JSON"),
        ('{"prompt": "a", "tokens": [1]}', "prompts.jsonl:1: a prompt is an object"),
        ("[]", "prompts.jsonl:1: Input should be a valid dictionary"),
        ('{"prompt": "a", "max_token": 3}', "prompts.jsonl:1: max_token: Extra inputs are not permitted"),
        ('{"promt": "a"}', "prompts.jsonl:1: promt: Extra inputs are not permitted"),
        ('{"prompt": "a", "seed": "x"}', "prompts.jsonl:1: seed: Input should be a valid integer"),
        ('{"prompt": "a", "stop": [3]}', "prompts.jsonl:1: stop: it is to be a string or a list of strings"),
        ('{"prompt": "a", "seed": -1}', "prompts.jsonl:1: temperature is 0 or more"),
        ('{"prompt": "a", "temperature": NaN}', "prompts.jsonl:1: temperature is 0 or more"),
        ('{"prompt": "a", "top_p": 0}', "prompts.jsonl:1: temperature is 0 or more"),
        ('{"prompt": 5}', "prompts.jsonl:1: prompt: Input should be a valid string"),
        ('{"prompt": "\\ud800"}', "prompts.jsonl:1: "),
        ('{"prompt": "a"}\n{"prompt": "a", "max_tokens": 9000}', "prompts.jsonl:2: 1 prompt tokens and 9000 new"),
        ('{"prompt": "a", "id": 1}\n{"prompt": "a", "id": 1}', "two prompts have one id"),
    ],
)
def test_a_wrong_prompt_is_named_before_anything_is_computed(
    line: str, why: str, compress: Callable[..., Outcome], tiny: Callable[[int | None], Subject], prompts: Path
) -> None:
    prompts.write_text(line, encoding="utf-8")
    ended = compress("generate", tiny(4).folder, "--prompts", prompts, "--backend", "reference")
    assert ended.code == 2
    assert why in ended.err
    assert not prompts.with_suffix(".out.jsonl").exists()


def test_without_a_twin_static_batches_are_what_is_left(
    compress: Callable[..., Outcome], tiny: Callable[[int | None], Subject], prompts: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "unpaged"
    shutil.copytree(tiny(4).folder, folder, ignore=shutil.ignore_patterns(PAGED_MODEL, PAGED_CONFIG))
    place = tmp_path / "out.jsonl"
    call = ("generate", folder, "--prompts", prompts, "-o", place, "--batching")
    assert compress(*call, "static").code == 0
    assert len(answers(place)) == len(LINES)
    ended = compress(*call, "continuous")
    assert (ended.code, "package.paged" in ended.err) == (2, True)


def test_a_folder_without_a_twin_says_what_to_do(
    compress: Callable[..., Outcome], prompts: Path, tmp_path: Path
) -> None:
    ended = compress("generate", tmp_path, "--prompts", prompts)
    assert (ended.code, "compress run" in ended.err) == (2, True)


def test_an_output_that_cannot_be_written_is_said_so(
    compress: Callable[..., Outcome], tiny: Callable[[int | None], Subject], prompts: Path, tmp_path: Path
) -> None:
    for place, why in ((tmp_path / "nowhere" / "out.jsonl", "No such file"), (tmp_path, "Is a directory")):
        ended = compress("generate", tiny(4).folder, "--prompts", prompts, "-o", place, "--backend", "reference")
        assert (ended.code, len(ended.err.splitlines()), why in ended.err) == (2, 1, True)


@pytest.mark.parametrize("command", ["generate", "serve"])
@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("genai_config.json", None, "no genai_config.json"),  # as the artifact of an encoder
        ("tokenizer.json", "{", "not a tokenizer"),
        ("tokenizer.json", None, "no tokenizer.json"),
        ("model.paged.onnx", "half", "not a readable ONNX model"),
    ],
)
def test_an_artifact_that_cannot_be_served_is_told_in_a_line(
    command: str,
    name: str,
    content: str | None,
    why: str,
    compress: Callable[..., Outcome],
    tiny: Callable[[int | None], Subject],
    prompts: Path,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(tiny(4).folder, folder)
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_text(content, encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ended = compress(command, folder, *(("--prompts", prompts) if command == "generate" else ("--port", port)))
    assert (ended.code, len(ended.err.splitlines()), why in ended.err) == (2, 1, True)
