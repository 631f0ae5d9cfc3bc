"""compress on the benchmark's model: `ours.py OPTIMIZED CALIBRATION OUTPUT [parts]`, in the peers' terms.

parts: the document says where the time goes as well, and what the machine can do.

4 bits, groups of 128, symmetric, no act-order, no scale search: what the peers do by default.
"""

import shutil
import sys
from pathlib import Path
from typing import Any

from laps import Laps
from parts import Parts, speeds

from compressor.command.deferred import defer

defer()  # as `compress quantize` begins

from compressor import pipeline, sources  # noqa: E402
from compressor.recipe import recipe  # noqa: E402
from compressor.shelf import Shelf  # noqa: E402

OPTIONS = {"bits": 4, "group_size": 128, "scheme": "absmax", "act_order": False, "scale_search": False}


def main(optimized: Path, calibration: Path, output: Path, wanted: str = "") -> None:
    import torch  # imported before the clock starts, as the peers have it

    del torch
    laps, parts = Laps(), followed() if wanted else None
    data = {"source": str(calibration), "samples": 32, "length": 512}
    chosen = recipe.build({"model": str(optimized), "quantize": {"gptq": OPTIONS}, "calibration": data})
    shutil.rmtree(output, ignore_errors=True)
    with laps("load"):
        given = sources.open_input(optimized)
    with laps("quantize"):
        quantized = pipeline.quantize(given, chosen, Shelf(output / "quantized", exact=True))
    with laps("save"):
        pipeline.package(given, quantized, chosen, Shelf(output / "packaged", exact=True))
    more = {"parts": parts.report(), "machine": speeds()} if parts else {}
    laps.report("compress-onnx", "torch", "onnxruntime-gpu", **more)


def followed() -> Parts:
    """The parts of GPTQ; what is none of them is the loop around them."""
    from compressor import shelf
    from compressor.quantize import gptq, solve, statistics, store
    from compressor.quantize.flow import linears
    from compressor.quantize.flow.flow import Flow

    parts = Parts()
    parts.follow("everything else, and waiting for threads", pipeline, "quantize")
    parts.follow("forward in ONNX Runtime", Flow, "_made")
    parts.follow("forward in ONNX Runtime", Flow, "_session")
    parts.follow(
        "products", linears.Linear, "product", lambda linear, x, weight, room: 2.0 * x.numel() * weight.shape[1]
    )
    parts.follow("inputs kept", Flow, "_kept")
    parts.follow(
        "statistics", statistics.SecondMoment, "_add", lambda moment, index, x: _flops(moment.panels[index], x)
    )
    parts.follow("factor", gptq.Gptq, "factorise", lambda solver, moment: len(moment) ** 3 / 3)
    parts.follow("solve", gptq.Factorised, "solve")
    parts.follow("errors for the table", solve._Group, "row")
    parts.follow("write", store, "write")
    parts.follow("write", shelf, "flushed")
    return parts


def _flops(panel: Any, x: Any) -> float:
    """Of a panel [columns, columns right of its first] of the moment of x [tokens, in]."""
    return 2.0 * float(panel.numel() * len(x))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]), *sys.argv[4:])
