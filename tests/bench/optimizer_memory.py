"""Peak memory of optimizing a model of more than 2 GiB: ours, then onnxsim, OnnxSlim, onnxoptimizer and onnxscript.

    python -m tests.bench.optimizer_memory [--products 35] [--folder DIR] [--tools compress onnxsim ...] [--turned]

A chain of products of 4096 x 4096 in float32, random, its weights beside it; `--turned`: behind a Transpose each, as
torch.export writes them, which optimizers fold. Anonymous memory (RssAnon, read every 20
ms) is what no file backs: mapped weights are page cache, which the kernel takes back. Each tool is one process and may
take 14 GiB. Bar: half a GiB above a process that optimizes a chain of one small product. Writes
results/optimizer_memory.json.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from compressor.graph.session import save_model
from tests.bench import export_depth
from tests.bench.export_memory import watched
from tests.bench.optimizers import TOOLS, command_of, python_of

RESULTS = Path(__file__).resolve().parent / "results" / "optimizer_memory.json"
BAR_BYTES = 1 << 29
MOST_KIBIBYTES = 14 << 20
CONTESTANTS = tuple(name for name in TOOLS if name != "onnxruntime basic")  # it writes no more than 2 GiB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--products", type=int, default=35)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--turned", action="store_true")
    parser.add_argument("--folder", type=Path, help="where the model and the results lie while it runs")
    parser.add_argument("--tools", nargs="+", default=list(CONTESTANTS), choices=CONTESTANTS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="compress-bench-", dir=options.folder) as folder:
        small, large = (Path(folder) / name / "model.onnx" for name in ("small", "large"))
        make(small, 1, 64, options.turned)
        make(large, options.products, options.width, options.turned)
        rows = {name: measure(name, small, large, Path(folder) / name.replace(" ", "-")) for name in options.tools}
    result = export_depth.facts() | {
        "command": f"python -m tests.bench.optimizer_memory{' --turned' if options.turned else ''}",
        "setting": f"{options.products} products of {options.width} x {options.width} in float32",
        "weight_bytes": options.products * options.width**2 * 4,
        "bar_bytes": BAR_BYTES,
        "rows": rows,
    }
    results = RESULTS.with_stem(f"{RESULTS.stem}_turned") if options.turned else RESULTS
    results.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


def make(path: Path, products: int, width: int, turned: bool) -> None:
    """Written one weight at a time; each keeps the size of what it is multiplied with."""
    path.parent.mkdir()
    x = ir.val("x", ir.DataType.FLOAT, ["N", width])
    value, weights = x, list[ir.Value]()
    nodes = list[ir.Node]()
    for place in range(products):
        weight = ir.Value(name=f"w{place}", const_value=_weight(place, width))
        weights.append(weight)
        if turned:
            nodes.append(ir.node("Transpose", [weight], {"perm": [1, 0]}))
            weight = nodes[-1].outputs[0]
            weight.name = f"t{place}"
        nodes.append(ir.node("MatMul", [value, weight]))
        value = nodes[-1].outputs[0]
        value.name, value.type, value.shape = f"y{place}", ir.TensorType(ir.DataType.FLOAT), ir.Shape(["N", width])
    graph = ir.Graph([x], [value], nodes=nodes, initializers=weights, opset_imports={"": 17}, name="chain")
    save_model(ir.Model(graph, ir_version=8), path)


def _weight(seed: int, width: int) -> ir.LazyTensor:
    def draw() -> ir.Tensor:
        numbers = np.random.default_rng(seed).standard_normal((width, width), np.float32)
        return ir.Tensor(numbers * np.float32(width**-0.5), name=f"w{seed}")

    return ir.LazyTensor(draw, ir.DataType.FLOAT, ir.Shape([width, width]), name=f"w{seed}")


def measure(name: str, small: Path, large: Path, folder: Path) -> dict[str, Any]:
    python = python_of(name)
    rows = []
    for model in (small, large):
        place = folder / model.parent.name
        place.mkdir(parents=True)
        command = command_of(
            name, python, model, place / "out" / "model.onnx" if name == "compress" else place / "m.onnx"
        )
        rows.append(watched(["bash", "-c", f'ulimit -v {MOST_KIBIBYTES}; exec "$@"', "bash", *command]))
        for file in place.rglob("*.data"):
            file.unlink()
    idle, row = rows
    above = row["peak_anonymous_bytes"] - idle["peak_anonymous_bytes"]
    return row | {"anonymous_bytes_above_a_small_model": above, "meets_the_bar": above <= BAR_BYTES}


if __name__ == "__main__":
    main()
