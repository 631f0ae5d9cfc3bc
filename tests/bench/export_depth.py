"""Seconds to trace a decoder of 4, 16 and 64 layers, tiny width: ours, transformers.exporters, torch.onnx on the whole.

    python -m tests.bench.export_depth [--depths 4 16 64] [--runners ours transformers torch]

Each measurement is a process of its own; imports are outside the clock, the first use of every library inside it.
Writes results/export_depth.json. Bars: at most half of transformers.exporters at 4 layers, a fifth at 64.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).resolve().parent / "results" / "export_depth.json"
SIZES = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
BARS = {4: 0.5, 64: 0.2}  # of transformers.exporters' seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--depths", type=int, nargs="+", default=[4, 16, 64])
    parser.add_argument("--runners", nargs="+", default=list(RUNNERS))
    parser.add_argument("--limit", type=int, default=900, help="seconds after which a runner is stopped")
    parser.add_argument("--one", nargs=2, metavar=("RUNNER", "FOLDER"), help="measure in this process")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(RUNNERS[options.one[0]](Path(options.one[1]))))
        return
    rows = []
    with tempfile.TemporaryDirectory(prefix="compress-bench-") as folder:
        for depth in options.depths:
            checkpoint = make(Path(folder) / str(depth), depth)
            rows += [
                {"layers": depth, "runner": one} | measured(one, checkpoint, options.limit) for one in options.runners
            ]
            print(json.dumps(rows[-len(options.runners) :]), file=sys.stderr)
    RESULTS.write_text(json.dumps(facts() | {"bars": BARS, "rows": rows}, indent=2) + "\n", encoding="utf-8")


def make(folder: Path, depth: int) -> Path:
    """A random Llama."""
    import transformers

    config = transformers.LlamaConfig(**SIZES, num_hidden_layers=depth)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def measured(runner: str, checkpoint: Path, limit: int) -> dict[str, Any]:
    """Wall and processor seconds of one runner, in a process of its own; what it had used where it was stopped."""
    command = [sys.executable, "-m", "tests.bench.export_depth", "--one", runner, checkpoint]
    variables = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    try:
        run = subprocess.run(
            command, env=variables, capture_output=True, text=True, check=True, timeout=limit, cwd=ROOT
        )
    except subprocess.TimeoutExpired:
        used = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
        return {"stopped_after_seconds": limit, "trace_processor_seconds_at_least": round(used, 1)}
    except subprocess.CalledProcessError as error:
        return {"failed": error.stderr.strip().splitlines()[-1][:300]}
    return dict(json.loads(run.stdout.strip().splitlines()[-1]))


def ours(checkpoint: Path) -> dict[str, Any]:
    from compressor.export import causal_lm
    from compressor.graph.session import save_model

    clock = Clock()
    origin = causal_lm.load(checkpoint, 21)
    model = causal_lm.export(origin, 21)
    clock.lap("trace")
    save_model(model, checkpoint / "ours.onnx")
    clock.lap("save")
    causal_lm.prove(origin, checkpoint / "ours.onnx")
    clock.lap("proof")
    return clock.seconds | {"graph_nodes": len(model.graph), "traced": origin.facts["traced"]}


def transformers_exporters(checkpoint: Path) -> dict[str, Any]:
    """Prefill and decode, as its documentation generates: two graphs where ours is one."""
    import torch
    import transformers
    from transformers.exporters import OnnxConfig, OnnxExporter

    model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    ids = torch.arange(6).reshape(2, 3)
    mask = torch.tensor([[0, 1, 1], [1, 1, 1]])
    clock = Clock()
    config = OnnxConfig(dynamic=True, opset_version=21)
    inputs = {"input_ids": ids, "attention_mask": mask}
    OnnxExporter().export_for_generation(model, inputs, config, multi_token_decode=True)
    clock.lap("trace")
    return clock.seconds


def torch_onnx(checkpoint: Path) -> dict[str, Any]:
    """The whole model through torch.onnx, its optimizer off as ours has it."""
    import torch
    import transformers

    from compressor.export import tracing
    from compressor.export.decoder_module import DecoderModule

    model = transformers.AutoModelForCausalLM.from_pretrained(
        checkpoint, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    clock = Clock()
    graph = tracing.trace(DecoderModule(model).call(), 21).graph
    clock.lap("trace")
    return clock.seconds | {"graph_nodes": len(graph)}


class Clock:
    """Wall and processor seconds between laps: on a shared machine the second is the fairer one."""

    def __init__(self) -> None:
        self.seconds: dict[str, Any] = {}
        self._wall, self._processor = time.perf_counter(), time.process_time()

    def lap(self, name: str) -> None:
        wall, processor = time.perf_counter(), time.process_time()
        self.seconds[f"{name}_seconds"] = round(wall - self._wall, 2)
        self.seconds[f"{name}_processor_seconds"] = round(processor - self._processor, 2)
        self._wall, self._processor = time.perf_counter(), time.process_time()


def facts() -> dict[str, Any]:
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "command": f"python -m tests.bench.export_depth {' '.join(sys.argv[1:])}".strip(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}",
        "versions": {name: version(name) for name in ("torch", "transformers", "onnxscript", "onnx-ir")},
        "setting": "random Llama, width 64, vocabulary 128, float32, opset 21",
    }


RUNNERS = {"ours": ours, "transformers": transformers_exporters, "torch": torch_onnx}

if __name__ == "__main__":
    main()
