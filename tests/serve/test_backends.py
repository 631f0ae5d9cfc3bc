"""Both backends: whoever is beside a request, however its prompt is cut and however often it is sent back, it says what
it would say alone; blocks are counted exactly; who leaves, leaves no trace."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from compressor.errors import MachineError, RequestError
from compressor.serve.backend import Guidance, Limits, Request, Sampling
from compressor.serve.blocks import chain
from compressor.serve.engine import BESIDE, CHUNK, FAULT, RETRIES
from compressor.serve.served import BACKENDS
from tests.serve.conftest import Subject, subject
from tests.serve.serving import Outcome, mixed, serve

pytest.importorskip("onnxruntime_genai", reason="onnxruntime-genai is not installed; `pip install .[genai]`")

ROOMY = Limits(num_blocks=512, block_size=16, max_batch=16, max_step_tokens=2048, context=512, threads=1)
CHUNKED = Limits(num_blocks=512, block_size=4, max_batch=8, max_step_tokens=16, context=512, threads=1)
# One long request's worth: the Engine's side begins none that does not fit, so only small blocks overtake it often.
CRAMPED = Limits(num_blocks=26, block_size=4, max_batch=8, max_step_tokens=20, context=512, threads=1)
EVAL = Path(__file__).parents[3] / "shared" / "eval"
Tiny = Callable[[int | None], Subject]


@pytest.fixture(params=BACKENDS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("limits", [ROOMY, CHUNKED, CRAMPED], ids=["roomy", "chunked", "cramped"])
@pytest.mark.parametrize("bits", [None, 4], ids=["float32", "int4"])
def test_each_says_what_it_says_alone(name: str, bits: int | None, limits: Limits, tiny: Tiny) -> None:
    model = tiny(bits)
    requests, backend = mixed(40, model.vocab), model.make(name, limits)
    for request, found in zip(requests, serve(backend, requests, arrival=0.4), strict=True):
        assert model.is_greedy(request, found.tokens, found.finish)
    tally = backend.usage().tally
    assert tally.cached_tokens > 0
    assert (tally.preemptions > 0) == (limits is CRAMPED)


def test_a_prefix_is_computed_once(name: str, tiny: Tiny) -> None:
    """Eight at once: seven wait for the first and find its whole blocks. 50 tokens are three blocks of 16."""
    rng = np.random.default_rng(2)
    begin = rng.integers(2, 500, 50).tolist()
    requests = [Request((*begin, *rng.integers(2, 500, 5).tolist()), 4) for _ in range(8)]
    backend = tiny(None).make(name, ROOMY)
    assert [one.cached_tokens for one in serve(backend, requests)] == [0, *[48] * 7]
    again = serve(backend, [requests[0]])  # nobody holds the blocks any more, and they are still there
    assert again[0].cached_tokens == 48


def test_a_late_request_joins_and_does_not_wait(name: str, tiny: Tiny) -> None:
    backend = tiny(None).make(name, ROOMY)
    first = backend.submit(Request((5, 6, 7), 20))
    for _ in range(4):
        backend.step()
    second = backend.submit(Request((9, 8), 4))
    finished: list[int] = []
    while backend.busy:
        finished += [event.number for event in backend.step() if event.finish]
    assert finished == [second, first]
    assert backend.usage().tally.steps < 24


def test_prompts_are_read_one_after_another(name: str, tiny: Tiny) -> None:
    """All rows of a call's attention are as long as the longest: so the Engine begins none that it would cut short."""
    backend = tiny(None).make(name, CHUNKED)
    for each in range(3):
        backend.submit(Request((2 + each,) * 40, 1))
    seen = []
    while backend.busy:
        backend.step()
        seen.append((backend.usage().running, backend.usage().waiting))
    assert seen[0] == (1, 2)
    assert len(seen) == {"engine": 3 * -(-40 // 16), "reference": -(-3 * 40 // 16)}[name]


def test_prompts_that_fit_are_read_side_by_side(tiny: Tiny) -> None:
    """Each a piece in each call, none behind another: all four are there after two calls."""
    backend = tiny(None).make("engine", ROOMY)
    for each in range(4):
        backend.submit(Request((2 + each,) * (CHUNK + 36), 3))
    assert backend.step() == []
    assert backend.usage().running == 4
    assert sum(event.token is not None for event in backend.step()) == 4


def test_beside_an_answer_few_prompts_begin_in_a_call(tiny: Tiny) -> None:
    """A burst of twelve: who reads an answer waits for four of them at most before the next token."""
    backend = tiny(None).make("engine", ROOMY)
    backend.submit(Request((5, 6), 40))
    backend.step()
    for each in range(12):
        backend.submit(Request((2 + each,) * (CHUNK + 36), 3))
    backend.step()
    assert backend.usage().running == 1 + BESIDE // CHUNK


def test_the_engines_forecast_counts_a_shared_block_once(tiny: Tiny) -> None:
    """By hand, after every step: full blocks by their content, and the one that each is filling."""
    model, size = tiny(None), ROOMY.block_size
    backend = model.make("engine", ROOMY)
    texts = {backend.submit(one): list(one.prompt) for one in mixed(12, model.vocab, seed=5)}
    waiting, most = list(texts), 0
    while backend.busy:
        for event in backend.step():
            texts[event.number] += [] if event.token is None else [event.token]
            if event.finish:
                del texts[event.number]
        usage = backend.usage()
        running = [texts[one] for one in waiting if one in texts][: usage.running]
        if len(texts) == usage.running:  # none waits, so it is known who runs
            full = {content for text in running for content in chain(text, size)}
            opened = sum(-(-(len(text) + 1) // size) - len(text) // size for text in running)
            assert usage.used_blocks == len(full) + opened
            most = max(most, usage.running)
    assert most > 4


def test_who_leaves_leaves_no_trace(name: str, tiny: Tiny) -> None:
    model = tiny(None)
    requests, backend = mixed(9, model.vocab, seed=3), model.make(name, CHUNKED)
    found = {backend.submit(one): Outcome() for one in requests}
    gone = [2, 5, 9]  # the ninth still waits: eight run at once
    for step in range(200):
        if step == 2:
            for number in gone:
                backend.cancel(number)
            backend.cancel(77)  # nobody
        for event in backend.step():
            found[event.number].add(event)
    assert not backend.busy
    assert backend.usage().free_blocks == CHUNKED.num_blocks
    for (number, outcome), request in zip(found.items(), requests, strict=True):
        if number in gone:
            assert outcome.finish in ("cancelled", "stop", "length")
        else:
            assert model.is_greedy(request, outcome.tokens, outcome.finish)
    assert found[9].finish == "cancelled"


@pytest.mark.parametrize("limits", [ROOMY, CRAMPED], ids=["roomy", "cramped"])
def test_a_seed_draws_the_same_in_any_company(name: str, limits: Limits, tiny: Tiny) -> None:
    requests = [Request((5, 6, 7, 8), 40, Sampling(1.0, 0.9, seed)) for seed in (1, 2, 3, 1)]
    together = [one.tokens for one in serve(tiny(None).make(name, limits), requests)]
    alone = [serve(tiny(None).make(name, ROOMY), [one])[0].tokens for one in requests[:3]]
    assert together[:3] == alone
    assert together[0] == together[3]
    assert len({tuple(one) for one in together}) == 3


def test_what_can_never_finish_is_refused(name: str, tiny: Tiny) -> None:
    backend = tiny(None).make(name, CRAMPED)
    for request, why in (
        (Request((5,) * 94, 11), "105"),
        (Request((), 4), "at least one"),
        (Request((5,), 0), "at least one"),
        (Request((512,), 4), "vocabulary"),
    ):
        with pytest.raises(RequestError, match=why):
            backend.submit(request)
    assert not backend.busy


def test_the_engine_guides_by_a_schema(tiny: Tiny) -> None:
    backend = tiny(None).make("engine", ROOMY)
    assert backend.guides
    properties = {"cats": {"enum": [1, 2]}}
    schema = {"type": "object", "properties": properties, "required": ["cats"], "additionalProperties": False}
    requests = [
        Request((5, 6), 40, guidance=Guidance("regex", "[ab]{3}c")),
        Request((5, 6), 120, guidance=Guidance("json_schema", json.dumps(schema))),
        Request((5, 6), 8),
        Request((5, 6), 8, guidance=Guidance("json_schema", "no schema")),
    ]
    by_regex, by_schema, plain, broken = serve(backend, requests)
    decode = tiny(None).served.tokenizer.decode
    assert re.fullmatch("[ab]{3}c", decode(by_regex.tokens))
    assert re.fullmatch(r'\{\s*"cats"\s*:\s*[12]\s*\}?\s*', decode(by_schema.tokens))  # white space may go on for ever
    assert tiny(None).is_greedy(requests[2], plain.tokens, plain.finish)
    assert broken.finish == "refused"


def test_grammars_are_made_one_between_two_calls(tiny: Tiny) -> None:
    """Each takes its time, in which all that run wait: so they, and whoever cancels, come in between."""
    backend = tiny(None).make("engine", ROOMY)
    numbers = [backend.submit(Request((5, 6), 9, guidance=Guidance("regex", "[ab]{9}"))) for _ in range(4)]
    backend.submit(Request((5, 6), 9))
    backend.step()
    assert (backend.usage().running, backend.usage().waiting) == (1, 4)
    backend.step()
    assert (backend.usage().running, backend.usage().waiting) == (2, 3)
    for number in numbers:
        backend.cancel(number)
    backend.step()
    assert backend.usage().running == 1


def test_a_grammar_that_fails_a_call_is_refused_and_nobody_else_is(tiny: Tiny) -> None:
    """The snowman takes three tokens, at the third of which the grammar library fails, and with it every call."""
    model = tiny(None)
    backend = model.make("engine", ROOMY)
    plain = Request((5, 6), 40)
    snowman, seven = (Guidance("json_schema", json.dumps({"enum": [one]})) for one in ("\N{SNOWMAN}", 7777777777))
    requests = [Request((5, 6), 40, guidance=one) for one in (seven, snowman, seven, snowman)]
    *found, undisturbed = serve(backend, [*requests, plain])
    assert [one.finish for one in found] == ["stop", "refused", "stop", "refused"]
    assert {model.served.tokenizer.decode(one.tokens) for one in found[::2]} == {"7777777777"}
    assert model.is_greedy(plain, undisturbed.tokens, undisturbed.finish)


def test_an_engine_that_fails_at_every_call_says_so(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = tiny(None).make("engine", ROOMY)
    backend.submit(Request((5, 6), 4))
    monkeypatch.setattr(backend, "_read", lambda *_: FAULT)
    assert [backend.step() for _ in range(RETRIES)] == [[]] * RETRIES
    with pytest.raises(MachineError, match="fails at every call"):
        backend.step()


@pytest.mark.eval
@pytest.mark.slow
@pytest.mark.skipif(not EVAL.is_dir(), reason=f"{EVAL} is absent: it lies beside the project, not in it")
@pytest.mark.parametrize("folder", ["stories260K-hf", "mix10m-hf"])
@pytest.mark.parametrize("bits", [None, 4], ids=["float32", "int4"])
def test_two_hundred_requests_of_a_trained_model(folder: str, bits: int | None, tmp_path: Path) -> None:
    model = subject(str(EVAL / folder), tmp_path, bits=bits)
    requests = mixed(200, model.vocab)
    for name in BACKENDS:
        for limits in (CHUNKED, CRAMPED):
            backend = model.make(name, limits)
            for request, one in zip(requests, serve(backend, requests, arrival=0.4), strict=True):
                assert model.is_greedy(request, one.tokens, one.finish)
            preemptions = backend.usage().tally.preemptions
            assert preemptions > len(requests) / 10 if limits is CRAMPED else preemptions == 0
