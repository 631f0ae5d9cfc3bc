"""One optimized file against its original: does it load, is its interface the same, are its answers.

    python -m tests.bench.optimizer_judge ORIGINAL RESULT      ->  one line of JSON

Wrong is: an input or output that is gone or of another type, an answer that differs with ONNX Runtime's optimizer off,
two unseeded draws that became one, a load that fails. A default that may no longer be overridden is an input gone;
before IR version 4 it was none.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
from onnx_ir.passes.common import RemoveUnusedNodesPass

from compressor.graph import probe
from compressor.graph.session import graph_nbytes, load_model, open_session
from passes.running.proof import DisproofError, Reference, draws

QUANTIZERS = ("DequantizeLinear", "QuantizeLinear")


def judge(original: Path, result: Path) -> dict[str, Any]:
    before, after = load_model(original), load_model(result)
    for model in (before, after):
        model.graph.sort()
    inputs = probe.find(before)
    quantizers = sum(1 for node in after.graph.all_nodes() if node.op_type in QUANTIZERS)
    found: dict[str, Any] = {"nodes": nodes(after, after.graph), "quantizers": quantizers}
    found |= {"bytes": graph_nbytes(result), "compared": inputs is not None}
    try:
        Reference.of(before, inputs).compare(after)
        if inputs is not None and _varies(before, inputs):
            _hold_the_draws(before, after)
        open_session(result, "served")
        found["verdict"] = "right"
    except DisproofError as reason:
        found["verdict"] = f"wrong: {reason}"
    except Exception as error:
        found["verdict"] = f"wrong: {type(error).__name__}: {' '.join(str(error).split())[:160]}"
    return found


def _varies(model: ir.Model, inputs: probe.Probe) -> bool:
    """Whether answers depend on what was drawn; a draw that is only asked for its shape may go."""
    answers = []
    for seed in (1, 2):
        onnxruntime.set_seed(seed)  # without it all sessions of a process draw alike
        answers.append(inputs(model.clone()))
    one, other = answers
    return any(not np.array_equal(one[name], other[name]) for name in one)


def _hold_the_draws(before: ir.Model, after: ir.Model) -> None:
    """No answer can show it: one draw added to itself is not two, though each is as random as the other."""
    was, became = (_draws(model) for model in (before, after))
    if became < was:
        raise DisproofError(f"{was} draws became {became}")


def _draws(model: ir.Model) -> int:
    """How many there are without a seed that somebody reads."""
    RemoveUnusedNodesPass()(model)
    return sum(map(draws, model.graph.all_nodes()))


def nodes(model: ir.Model, graph: ir.Graph) -> int:
    """With those of the graphs inside it; a call of a model's function is the nodes of its body."""
    bodies = {one.identifier(): one for one in model.functions.values()}
    called = [bodies.get(node.op_identifier()) for node in graph.all_nodes()]
    return sum(1 if body is None else nodes(model, body.graph) for body in called)


if __name__ == "__main__":
    print(json.dumps(judge(Path(sys.argv[1]), Path(sys.argv[2]))))
