"""One optimizer on many files from Python, its libraries loaded: processor seconds of all.

    PYTHON tests/bench/optimizer_warm.py compress|onnxsim|onnxslim FILE...       ->  the last line is JSON

Runs in the optimizer's own environment. Each file in a fork, so that none leaves anything to the next, and one that
ends the process or cannot be optimized counts with the time it took.
"""

import json
import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def compress() -> Callable[[Path, Path], object]:
    from compressor.command.deferred import defer

    defer()
    import passes  # noqa: F401
    from compressor import catalog, sources
    from compressor.shelf import Shelf
    from compressor.stages import optimizing

    wanted = optimizing.Target("generic")
    for name in wanted.passes:
        catalog.resolve(catalog.PASSES[name].where)
    return lambda file, out: optimizing.optimize(sources.open_input(file), wanted, Shelf(out / "all", exact=True))


def onnxsim() -> Callable[[Path, Path], object]:
    import onnx
    import onnxsim as rival

    return lambda file, out: onnx.save(rival.simplify(str(file))[0], str(out / "model.onnx"))


def onnxslim() -> Callable[[Path, Path], object]:
    import onnxslim as rival

    return lambda file, out: rival.slim(str(file), str(out / "model.onnx"))


def seconds_of(work: Callable[[Path, Path], object], file: Path) -> float:
    """Of the processor, in a fork."""
    with tempfile.TemporaryDirectory() as folder:
        child = os.fork()
        if child == 0:
            with suppress(BaseException):
                work(file, Path(folder))
            os._exit(0)
        _, _, used = os.wait4(child, 0)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    optimizer = {"compress": compress, "onnxsim": onnxsim, "onnxslim": onnxslim}[sys.argv[1]]()
    print(json.dumps(sum(seconds_of(optimizer, Path(file)) for file in sys.argv[2:])))
