"""Ten transformers on a CPU: our graph for cpu beside what onnxscript and ONNX Runtime's own optimizer make of it.

    python -m tests.bench.fusion_latency [bert t5 ...]

Four layers of width 256, random weights, exported by us at opset 21. Every form is called under the same session
options (all of ONNX Runtime's optimizations, one thread), in turns, 128 tokens in a call and, where there is a cache,
one more on it. Medians of processor time, which other jobs hardly touch; what does not load, or answers otherwise than
the exported graph, is named and not raced. Written to results/.
"""

import argparse
import json
import math
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from compressor import pipeline, sources
from compressor.graph.session import load_model, open_session, save_model
from compressor.recipe import recipe
from compressor.shelf import Shelf
from tests import architectures
from tests.bench.optimizers import command_of, python_of, run

RESULTS = Path(__file__).resolve().parent / "results" / "fusion_latency.json"
TOKENS, VOCABULARY, ROUNDS, SECONDS = 128, 99, 15, 2.5
CLOSE = 1e-3  # of the largest value: float32, and other orders of summing
TEXT = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 1024,
        "max_position_embeddings": 512}  # fmt: skip
SIZES: dict[str, dict[str, Any]] = {
    "bert": TEXT,
    "vit": TEXT | {"image_size": 96},
    "resnet": {"embedding_size": 32, "hidden_sizes": [64, 128], "depths": [2, 2]},
    "whisper": {"d_model": 256, "encoder_layers": 4, "decoder_layers": 4, "encoder_ffn_dim": 1024,
                "decoder_ffn_dim": 1024, "max_source_positions": TOKENS, "max_target_positions": 512},
    "t5": {"d_model": 256, "d_kv": 64, "d_ff": 1024, "num_layers": 4, "num_decoder_layers": 4},
    "gpt2": TEXT | {"n_positions": 512},
    "llama": TEXT,
    "qwen3": TEXT | {"head_dim": 64},
    "gemma3_text": TEXT | {"head_dim": 64, "query_pre_attn_scalar": 64, "sliding_window": 512},
    "mixtral": TEXT,
}  # fmt: skip
# What ONNX Runtime's optimizer calls them; it knows no other.
KINDS = {"bert": "bert", "vit": "vit", "gpt2": "gpt2", "whisper": "bart", "t5": "t5", "llama": "gpt2", "qwen3": "gpt2"}

Form = Callable[[Path, Path, str], Any]  # the exported graph, where the result goes, the row's name
Feeds = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", choices=[*SIZES, []], default=[])
    parser.add_argument("--without", nargs="*", choices=list(FORMS), default=[])
    chosen = parser.parse_args()
    forms = {name: form for name, form in FORMS.items() if name not in chosen.without}
    rows: dict[str, Any] = {}
    for name in chosen.names or SIZES:
        with tempfile.TemporaryDirectory(prefix="compress-bench-") as folder:
            rows |= compare(name, forms, Path(folder))
    facts = {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "command": "python -m tests.bench.fusion_latency",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.0f}",
        "versions": {one: version(one) for one in ("onnxruntime-gpu", "onnxscript", "onnx")},
        "ratio": {rival: _ratio(rows, rival) for rival in ("exported", *FORMS) if rival != "compress"},
        "rows": rows,
    }
    RESULTS.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(facts["ratio"], indent=1))


def compare(name: str, makers: dict[str, Form], folder: Path) -> dict[str, Any]:
    """Milliseconds of each call of each graph of a model, for every form."""
    checkpoint = architectures.write(name, folder / "checkpoint", **SIZES[name])
    made = pipeline.export(sources.find(str(checkpoint)), recipe.build({"model": str(checkpoint)}), Shelf(folder / "s"))
    rows: dict[str, Any] = {}
    for graph in made.models:
        forms, failed = {"exported": graph}, {}
        for form, make in makers.items():
            place = folder / graph.stem / form.replace(" ", "-")
            place.mkdir(parents=True)
            try:
                make(graph, place / "model.onnx", name)
                forms[form] = place / "model.onnx"
            except Exception as error:  # a rival may fail in any way; it is named
                failed[form] = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        nodes = {form: sum(1 for _ in load_model(path).graph.all_nodes()) for form, path in forms.items()}
        for call, feeds in calls(load_model(graph)).items():
            known = f"{name} {graph.stem} {call}" if len(made.models) > 1 else f"{name} {call}"
            rows[known] = {"nodes": nodes, "milliseconds": race(forms, feeds, failed), "failed": failed}
            print(known, rows[known], file=sys.stderr, flush=True)
    return rows


def _compress(graph: Path, result: Path, name: str) -> None:
    made = sources.open_input(graph)
    optimized = pipeline.optimize(made, recipe.build({"model": name, "target": "cpu"}), Shelf(result.parent / "s"))
    save_model(load_model(optimized.model), result)


def _onnxscript(graph: Path, result: Path, name: str) -> None:
    from onnxscript.rewriter import ort_fusions

    model, _ = ort_fusions.optimize_for_ort(ir.load(graph))
    save_model(model, result)


def _onnxruntime(graph: Path, result: Path, name: str) -> None:
    from onnxruntime.transformers.optimizer import optimize_model

    kind = KINDS[name]
    optimized = optimize_model(str(graph), kind, num_heads=4, hidden_size=256, opt_level=0)
    optimized.save_model_to_file(str(result), use_external_data_format=True)


def _peer(tool: str) -> Form:
    def make(graph: Path, result: Path, name: str) -> None:
        ended = run(command_of(tool, python_of(tool), graph, result))
        if ended["code"] or not result.is_file():
            raise RuntimeError(f"exit code {ended['code']}")

    return make


FORMS: dict[str, Form] = {
    "compress": _compress,
    "onnxscript": _onnxscript,
    "onnxruntime.transformers": _onnxruntime,
    "onnxslim": _peer("onnxslim"),
    "onnxsim": _peer("onnxsim"),
}


def calls(model: ir.Model) -> dict[str, Feeds]:
    """A call of all tokens, and of a graph with a cache one of a token behind them."""
    cached = any("past_sequence_length" in str(value.shape) for value in model.graph.inputs)
    found = {"prefill" if cached else "call": _feeds(model, TOKENS, 0)}
    return found | ({"step": _feeds(model, 1, TOKENS)} if cached else {})


def _feeds(model: ir.Model, tokens: int, past: int) -> Feeds:
    rng = np.random.default_rng(0)
    sizes = {"batch_size": 1, "sequence_length": tokens, "past_sequence_length": past, "height": 96, "width": 96,
             "total_sequence_length": past + tokens, "encoder_sequence_length": TOKENS}  # fmt: skip
    feeds: Feeds = {}
    for value in model.graph.inputs:
        shape = [one if isinstance(one, int) else sizes[str(one.value)] for one in value.shape or ()]
        if value.dtype is not None and value.dtype.is_floating_point():
            feeds[str(value.name)] = rng.standard_normal(shape).astype(np.float32)
        elif "mask" in str(value.name):
            feeds[str(value.name)] = np.ones(shape, np.int64)
        elif value.name == "position_ids":
            feeds["position_ids"] = np.arange(past, past + tokens)[None]
        else:
            most = 2 if value.name == "token_type_ids" else VOCABULARY
            feeds[str(value.name)] = rng.integers(0, most, shape)
    return feeds


def race(forms: dict[str, Path], feeds: Feeds, failed: dict[str, str]) -> dict[str, float]:
    """Median processor milliseconds of a call, in turns; a form that answers otherwise than the first is left out."""
    sessions, expected = {}, None
    for form, path in forms.items():
        try:
            session = open_session(path, "served", threads=1)
            names = [one.name for one in session.get_outputs()]
            answer = session.run(names, feeds)
        except Exception as error:
            failed[form] = str(error).splitlines()[0][:120]
            continue
        expected = answer if expected is None else expected
        worst = max(np.abs(a - b).max() / np.abs(a).max() for a, b in zip(expected, answer, strict=True) if a.size)
        if worst > CLOSE:
            failed[form] = f"answers otherwise: {worst:.1e}"
        else:
            sessions[form] = session
    taken: dict[str, list[float]] = {form: [] for form in sessions}
    begin = time.perf_counter()
    order, rng = list(sessions), random.Random(0)
    while time.perf_counter() - begin < SECONDS or len(taken["exported"]) < ROUNDS:
        rng.shuffle(order)  # each finds the caches as another one left them
        for form in order:
            start = time.process_time()
            sessions[form].run(None, feeds)
            taken[form].append(1000 * (time.process_time() - start))
    return {form: round(statistics.median(one), 4) for form, one in taken.items()}


def _ratio(rows: dict[str, Any], rival: str) -> float | None:
    """Ours over theirs, the geometric mean over the calls that both answer."""
    pairs = [(row["milliseconds"].get("compress"), row["milliseconds"].get(rival)) for row in rows.values()]
    logs = [math.log(mine / theirs) for mine, theirs in pairs if mine and theirs]
    return round(math.exp(statistics.mean(logs)), 3) if logs else None


if __name__ == "__main__":
    main()
