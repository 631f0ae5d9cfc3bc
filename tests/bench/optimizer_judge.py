"""One optimized file against its original: does it load, is its interface the same, are its answers, how fast is it.

    python -m tests.bench.optimizer_judge ORIGINAL RESULT      ->  one line of JSON

Wrong is: an input or output that is gone or of another type, an answer that differs with ONNX Runtime's optimizer off,
a load that fails. A default that may no longer be overridden is an input gone; before IR version 4 it was none.
"""

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import onnx_ir as ir

from compressor import probe
from compressor.session import open_session
from passes.proof import DisproofError, Reference

REPEATS = 7


def judge(original: Path, result: Path) -> dict[str, Any]:
    before, after = ir.load(original), ir.load(result)
    for model in (before, after):
        model.graph.sort()
    inputs = probe.find(before)
    found: dict[str, Any] = {"nodes": sum(1 for _ in after.graph.all_nodes()), "compared": inputs is not None}
    try:
        Reference.of(before, inputs).compare(after)
        session = open_session(result, "served")
        found |= {"verdict": "right", "latency_ms": _latency(session, inputs) if inputs else None}
    except DisproofError as reason:
        found["verdict"] = f"wrong: {reason}"
    except Exception as error:
        found["verdict"] = f"wrong: {type(error).__name__}: {' '.join(str(error).split())[:160]}"
    return found


def _latency(session: Any, inputs: probe.Probe) -> float:
    """Median of a call as users run it, after one to warm up."""
    seconds = []
    for _ in range(REPEATS + 1):
        begin = time.perf_counter()
        session.run(None, inputs.calls[0])
        seconds.append(time.perf_counter() - begin)
    return 1000 * statistics.median(seconds[1:])


if __name__ == "__main__":
    print(json.dumps(judge(Path(sys.argv[1]), Path(sys.argv[2]))))
