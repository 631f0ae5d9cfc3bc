"""Several forms of one model, called in turns under the same session options: milliseconds of a call of each.

    python -m tests.bench.optimizer_race ORIGINAL RESULT...      ->  one line of JSON, a number a result

In turns, so that whatever else the machine does slows all of them; the least of all rounds, for noise only adds.
"""

import json
import sys
import time
from pathlib import Path

import onnx_ir as ir

from compressor.graph import probe
from compressor.graph.session import open_session

ROUNDS, SECONDS = 200, 4.0  # the race ends with the first of the two; three rounds it always has


def race(original: Path, results: list[Path]) -> list[float] | None:
    """None where the graph runs on no input that we can make up."""
    model = ir.load(original)
    model.graph.sort()
    inputs = probe.find(model)
    if inputs is None:
        return None
    sessions = [open_session(result, "served", threads=1) for result in results]
    best, begin = [float("inf")] * len(results), time.perf_counter()
    for lap in range(ROUNDS):
        for place, session in enumerate(sessions):
            start = time.perf_counter()
            session.run(None, inputs.calls[0])
            best[place] = min(best[place], 1000 * (time.perf_counter() - start))
        if lap >= 3 and time.perf_counter() - begin > SECONDS:
            break
    return best


if __name__ == "__main__":
    print(json.dumps(race(Path(sys.argv[1]), [Path(result) for result in sys.argv[2:]])))
