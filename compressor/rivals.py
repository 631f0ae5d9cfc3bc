"""Rivals of `compress bench`: an artifact that is there, or what onnxruntime-genai's model builder makes of a model.

    --against builder:MODEL     MODEL as recipes name it; at the artifact's bits, block size and activations

The builder runs in a process of its own, offline, without the model's code. Its graph computes what ours does; only the
size of a head, which it leaves open, is stated.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import onnx_ir as ir

from compressor import sources
from compressor.artifact import MODEL, Artifact
from compressor.errors import MachineError, RequestError
from compressor.graph.decoder import LOGITS
from compressor.graph.session import load_model
from compressor.package.genai import CONFIG

BUILDER = "builder:"
MODULE = "onnxruntime_genai.models.builder"
HEAD = "/lm_head/MatMul"  # the builder's name for the last product
PRECISIONS = {4: "int4", 8: "int8"}
EXACT = "fp32"


@contextmanager
def opened(name: str | None, artifact: Artifact, provider: str) -> Iterator[Artifact | None]:
    """The rival of an artifact; one that was built is gone afterwards.

    Raises: RequestError when there is none of this name, or when the builder refuses the model; MachineError without
    a builder.
    """
    if name is None or not name.startswith(BUILDER):
        yield sources.open_input(Path(name)) if name else None
        return
    if provider != "cpu":
        raise RequestError(f"--against {name}: the builder's rival is made for the cpu; leave --provider out")
    if find_spec("onnxruntime_genai") is None:
        raise MachineError("onnxruntime-genai is not installed; `pip install 'compress-onnx[genai]'` brings it")
    with tempfile.TemporaryDirectory() as place:
        yield sources.open_input(_build(name, load_model(artifact.model), Path(place)))


def _build(name: str, like: ir.Model, place: Path) -> Path:
    folder, output = sources.find(name.removeprefix(BUILDER)).folder, place / "rival"
    options = asked(like)
    command = [sys.executable, "-m", MODULE, "-m", str(folder), "-o", str(output), "-c", str(place / "cache")]
    command += ["-e", "cpu", "-p", options.pop("precision")]
    command += ["--extra_options", *(f"{key}={value}" for key, value in options.items())] if options else []
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if ended.returncode or not (output / MODEL).is_file():
        last = next((line for line in reversed(ended.stderr.splitlines()) if line.strip()), "no word")
        raise RequestError(f"--against {name}: onnxruntime-genai's builder does not make it: {last.strip()[:300]}")
    _state_head_size(output)
    return output / MODEL


def asked(like: ir.Model) -> dict[str, str]:
    """The artifact's own way of storing weights, in the builder's words; float32 where it has none that it knows."""
    products = [node for node in like.graph if node.op_type == "MatMulNBits"]
    kinds = {tuple(node.attributes[key].as_int() for key in ("bits", "block_size")) for node in products}
    if not products:
        return {"precision": EXACT}
    if len(kinds) > 1 or next(iter(kinds))[0] not in PRECISIONS:
        held = ", ".join(f"{bits} bits in blocks of {size}" for bits, size in sorted(kinds))
        raise RequestError(f"--against {BUILDER}...: the builder has one width, 4 or 8 bits; the artifact has {held}")
    bits, block_size = next(iter(kinds))
    level = products[0].attributes.get("accuracy_level")
    chosen = {"precision": PRECISIONS[bits], "block_size": str(block_size)}
    chosen["accuracy_level"] = str(level.as_int() if level else 0)
    logits = next(value for value in like.graph.outputs if value.name == LOGITS)
    maker = logits.producer()
    return chosen if maker is not None and maker in products else chosen | {"nodes_to_exclude": HEAD}


def _state_head_size(folder: Path) -> None:
    """The builder writes `kv_cache_dim` where our decoders say a number; the number is in its configuration."""
    size = int(json.loads((folder / CONFIG).read_text(encoding="utf-8"))["model"]["decoder"]["head_size"])
    model = load_model(folder / MODEL)
    for value in (*model.graph.inputs, *model.graph.outputs):
        if value.shape is not None and str(value.name).startswith(("past_key_values.", "present.")):
            value.shape = ir.Shape([*list(value.shape)[:3], size])
    ir.save(model, folder / MODEL)  # its data stays where it is
