"""Peak memory of an export whose checkpoint is as large as asked for: `compress export`, end to end, proof included.

    python -m tests.bench.export_memory --size small      1.5 GB of bfloat16, with torch.onnx beside it
    python -m tests.bench.export_memory --size 7b         14 GB: 32 layers of width 4096, ours alone; 29 GB of disk

The checkpoint is Llama-shaped, random, made shard by shard and deleted after. Anonymous memory (RssAnon of
/proc/PID/status, read every 20 ms from outside) is what no file backs: mapped weights are page cache, which the
kernel takes back. Writes results/export_memory_SIZE.json. Bar: 3 GiB at 7 B.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.bench import export_depth

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).resolve().parent / "results"
BAR_BYTES = 3 << 30
SIZES: dict[str, dict[str, int]] = {
    "small": {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 14, "num_key_value_heads": 8},
    "7b": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_key_value_heads": 32},
}
COMMON = {"vocab_size": 32000, "head_dim": 128, "max_position_embeddings": 4096}
READ_SECONDS = 0.02


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), default="float16")
    parser.add_argument("--folder", type=Path, help="where checkpoint and artifact lie while it runs")
    parser.add_argument("--whole", type=Path, help="export this checkpoint through torch.onnx, in this process")
    options = parser.parse_args()
    if options.whole:
        whole(options.whole)
        return
    with tempfile.TemporaryDirectory(prefix="compress-bench-", dir=options.folder) as folder:
        checkpoint = make(Path(folder) / "checkpoint", SIZES[options.size])
        nbytes = sum(path.stat().st_size for path in checkpoint.glob("*.safetensors"))
        command = [sys.executable, "-m", "cli", "export", checkpoint, "-o", Path(folder) / "out", "--json"]
        rows = {"compress": watched([*command, "--dtype", options.dtype])}
        shutil.rmtree(Path(folder) / "out", ignore_errors=True)
        if options.size == "small":
            script = [sys.executable, "-m", "tests.bench.export_memory", "--whole", checkpoint]
            rows["torch.onnx, weights loaded"] = watched(script)
    result = export_depth.facts() | {
        "command": f"python -m tests.bench.export_memory --size {options.size} --dtype {options.dtype}",
        "setting": f"random Llama in bfloat16, {nbytes / 1e9:.1f} GB, to {options.dtype}",
        "bar_bytes": BAR_BYTES,
        "rows": rows,
    }
    text = json.dumps(result, indent=2)
    (RESULTS / f"export_memory_{options.size}.json").write_text(text + "\n", encoding="utf-8")
    print(text)


def make(folder: Path, sizes: dict[str, int]) -> Path:
    """A checkpoint of random bfloat16, a shard a layer; no more than a layer is held."""
    import torch
    import transformers
    from safetensors.torch import save_file

    heads = sizes["hidden_size"] // COMMON["head_dim"]
    config = transformers.LlamaConfig(**COMMON, **sizes, num_attention_heads=heads, dtype="bfloat16")
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(folder)
    with torch.device("meta"):
        shapes = {name: one.shape for name, one in transformers.LlamaForCausalLM(config).state_dict().items()}
    shards: dict[str, list[str]] = {}
    for name in shapes:
        layer = name.split(".")[2] if name.startswith("model.layers.") else "rest"
        shards.setdefault(f"model-{layer}.safetensors", []).append(name)
    generator = torch.Generator().manual_seed(0)
    for shard, names in shards.items():
        tensors = {name: random(shapes[name], generator) for name in names}
        save_file(tensors, folder / shard, {"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: shard for shard, names in shards.items() for name in names}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def random(shape: Any, generator: Any) -> Any:
    """Wide enough for logits to differ; ones for norms. One block repeated: drawing 7 B numbers takes minutes."""
    import torch

    if len(shape) == 1:
        return torch.ones(shape, dtype=torch.bfloat16)
    block = torch.randn(256, shape[1], generator=generator).mul_(shape[1] ** -0.5).bfloat16()
    return block.repeat(-(-shape[0] // 256), 1)[: shape[0]].contiguous()


def whole(checkpoint: Path) -> None:
    """What a user without us writes: load, torch.onnx, save."""
    import torch
    import transformers

    from compressor.export import tracing
    from compressor.export.decoder_module import DecoderModule
    from compressor.graph.session import save_model

    model = transformers.AutoModelForCausalLM.from_pretrained(
        checkpoint, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    save_model(tracing.trace(DecoderModule(model).call(), 21), checkpoint / "whole.onnx")


def watched(command: list[Any]) -> dict[str, Any]:
    """Run a command; seconds, peak anonymous memory and peak resident memory, mapped files included."""
    begin, anonymous, resident = time.perf_counter(), 0, 0
    variables = os.environ | {"PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryFile("w+") as output:
        run = subprocess.Popen(
            [str(one) for one in command], env=variables, stdout=output, stderr=subprocess.STDOUT, cwd=ROOT
        )
        while run.poll() is None:
            status = Path(f"/proc/{run.pid}/status").read_text()
            anonymous, resident = max(anonymous, kibibytes(status, "RssAnon")), kibibytes(status, "VmHWM") or resident
            time.sleep(READ_SECONDS)
        output.seek(0)
        last = output.read().strip().splitlines()[-1:]
    row = {"seconds": round(time.perf_counter() - begin, 1), "exit_code": run.returncode}
    row |= {"peak_anonymous_bytes": anonymous, "peak_resident_bytes": resident}
    return row if run.returncode == 0 else row | {"failed": last}


def kibibytes(status: str, field: str) -> int:
    line = next((line for line in status.splitlines() if line.startswith(f"{field}:")), f"{field}: 0 kB")
    return 1024 * int(line.split()[1])


if __name__ == "__main__":
    main()
