"""Latency: milliseconds a call takes where the candidate is served, median and 95th percentile.

    decoder   prefill of a prompt; one token on its cache
    any other one call on made-up inputs

The session is opened here, anew: its opening is timed (TensorRT builds its engine in it), and what it takes of the
device's memory is the difference before and after.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from compressor.graph import probe
from compressor.graph.decoder import DecoderSession
from compressor.graph.session import open_session
from compressor.providers import device
from compressor.recipe.limits import Latency
from compressor.report.report import Measurement
from compressor.validate.subject import Subject

if TYPE_CHECKING:
    import onnxruntime as ort

Call = Callable[[], object]


def measure(candidate: Subject, options: Latency) -> list[Measurement]:
    """Opening, memory, and milliseconds of each kind of call."""
    before, begin = device.used_bytes(), time.perf_counter()
    session = open_session(candidate.path, "served", backend=candidate.backend)
    opened = time.perf_counter() - begin
    calls = _calls(candidate, session, options)
    found = [Measurement("session opened in", opened, "s")]
    for name, call, limit in calls:
        found += _rows(name, laps(call, options.repeats), limit)
    after = device.used_bytes()
    if before is not None and after is not None:
        found.append(Measurement("device memory", after - before, "bytes"))
    return found


def laps(call: Call, repeats: int) -> list[float]:
    """Milliseconds of each repeat; the first call warms and is not counted."""
    call()
    return [lap(call) for _ in range(repeats)]


def lap(call: Call) -> float:
    """Milliseconds of one call."""
    begin = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - begin)


def _calls(candidate: Subject, session: ort.InferenceSession, options: Latency) -> list[tuple[str, Call, float | None]]:
    if candidate.decoder is None:
        inputs = probe.find(candidate.model)
        if inputs is None:
            return []
        feeds = inputs.calls[0]
        return [("call", lambda: session.run(None, feeds), options.max_call_p95)]
    runner = DecoderSession(candidate.decoder, session)
    ids = np.random.default_rng(0).integers(0, candidate.decoder.vocab, (1, options.prompt))
    _, past = runner.step(ids)
    return [
        ("prefill", lambda: runner.step(ids), options.max_prefill_p95),
        ("decode", lambda: runner.step(ids[:, -1:], past=past), options.max_decode_p95),
    ]


def _rows(name: str, milliseconds: Sequence[float], limit: float | None) -> list[Measurement]:
    median, high = np.percentile(milliseconds, [50, 95])
    return [
        Measurement(f"{name} latency, median", float(median), "ms"),
        Measurement(f"{name} latency, p95", float(high), "ms", limit=limit, note=f"{len(milliseconds)} calls"),
    ]
