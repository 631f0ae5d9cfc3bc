"""Do our fused graphs run ONNX Runtime's tiled attention? Time and memory at 4096 tokens, with it and without.

    python -m tests.bench.flash_attention

No log says which CPU kernel ran. So each graph runs three times in a process of its own: fused (tiles allowed), fused
with tiles forbidden by ONNX Runtime's switch, and as it was exported. Other bytes come out of another kernel; the peak
of memory says whether the scores were stored. Written to results/.
"""

import argparse
import hashlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.bench.laps import resident_bytes

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).resolve().parent / "results" / "flash_attention.json"
TOKENS = 4096
REPEATS = 5
SWITCHES = {"decoder": "ORT_GQA_DISABLE_FLASH_ATTENTION", "encoder": "ORT_DISABLE_FLASH_ATTENTION"}

Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worker", type=Path, help="run this graph and print one line")
    worker = parser.parse_args().worker
    if worker:
        print(json.dumps(measure(worker)))
        return
    with tempfile.TemporaryDirectory(prefix="compress-bench-") as folder:
        rows = {name: compare(make(Path(folder) / name), switch) for name, switch in SWITCHES.items()}
    facts = {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "command": "python -m tests.bench.flash_attention",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}",
        "setting": f"1 layer, 8 heads of 64, {TOKENS} tokens, float32, median of {REPEATS}",
    }
    RESULTS.write_text(json.dumps(facts | rows, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(rows, indent=2))


def make(folder: Path) -> Path:
    """A model with random weights, exported and optimized for the CPU by the command line."""
    import torch
    import transformers

    torch.manual_seed(0)
    sizes = {"hidden_size": 512, "num_hidden_layers": 1, "num_attention_heads": 8, "intermediate_size": 1024}
    if folder.name == "decoder":
        llama = transformers.LlamaConfig(**sizes, num_key_value_heads=4, vocab_size=512, max_position_embeddings=TOKENS)
        model: Any = transformers.LlamaForCausalLM(llama)
    else:
        model = transformers.ViTModel(transformers.ViTConfig(**sizes, image_size=512, patch_size=8))
    model.save_pretrained(folder / "model")
    for command, source, *options in (("export", folder / "model"), ("optimize", folder / "export", "--for", "cpu")):
        arguments = [sys.executable, ROOT / "cli.py", command, source, "-o", folder / command, *options]
        subprocess.run(arguments, check=True, stdout=sys.stderr)
    return folder


def compare(folder: Path, switch: str) -> dict[str, Row]:
    fused, written_out = folder / "optimize" / "model.onnx", folder / "export" / "model.onnx"
    return {
        "fused": run(fused, {}),
        "fused, tiles forbidden": run(fused, {switch: "1"}),
        "as exported": run(written_out, {}),
    }


def run(graph: Path, variables: dict[str, str]) -> Row:
    command = [sys.executable, "-m", "tests.bench.flash_attention", "--worker", str(graph)]
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, check=True, cwd=ROOT)
    row: Row = json.loads(done.stdout.strip().splitlines()[-1])
    return row


def measure(graph: Path) -> Row:
    """Median seconds of a call, what it adds to the resident set at its peak, and which bytes come out."""
    import numpy as np

    from compressor.graph.decoder import Decoder
    from compressor.graph.session import load_model, open_session

    session, model, rng = open_session(graph, "served"), load_model(graph), np.random.default_rng(0)
    if decoder := Decoder.of(model):
        feeds: dict[str, Any] = decoder.feeds(rng.integers(0, decoder.vocab, (1, TOKENS)))
    else:
        feeds = {"pixel_values": rng.standard_normal((1, 3, 512, 512)).astype(np.float32)}
    wanted = [session.get_outputs()[0].name]
    before = resident_bytes("VmRSS")
    seconds = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        (output,) = session.run(wanted, feeds)
        seconds.append(time.perf_counter() - begin)
    return {
        "seconds": round(statistics.median(seconds), 4),
        "peak_added_bytes": resident_bytes("VmHWM") - before,
        "sha256": hashlib.sha256(output.tobytes()).hexdigest()[:16],
    }


if __name__ == "__main__":
    main()
