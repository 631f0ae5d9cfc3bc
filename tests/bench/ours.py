"""compress on the benchmark's model: `ours.py OPTIMIZED CALIBRATION OUTPUT`, in the peers' terms.

4 bits, groups of 128, symmetric, no act-order, no scale search: what the peers do by default.
"""

import shutil
import sys
from pathlib import Path

from laps import Laps

from compressor import pipeline, recipe, sources
from compressor.artifact import Shelf

OPTIONS = {"bits": 4, "group_size": 128, "scheme": "absmax", "act_order": False, "scale_search": False}


def main(optimized: Path, calibration: Path, output: Path) -> None:
    import torch  # imported before the clock starts, as the peers have it

    del torch
    laps = Laps()
    data = {"source": str(calibration), "samples": 32, "length": 512}
    chosen = recipe.build({"model": str(optimized), "quantize": {"gptq": OPTIONS}, "calibration": data})
    shutil.rmtree(output, ignore_errors=True)
    with laps("load"):
        given = sources.open_input(optimized)
    with laps("quantize"):
        quantized = pipeline.quantize(given, chosen, Shelf(output / "quantized", exact=True))
    with laps("save"):
        pipeline.package(given, quantized, chosen, Shelf(output / "packaged", exact=True))
    laps.report("compress-onnx", "torch", "onnxruntime-gpu")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
