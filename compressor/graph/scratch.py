"""Weights that are computed when they are read, such as a folded Transpose, on their way into a session.

    with computed(model, folder, location) as found:         the model names them; their numbers lie in files
        options.add_initializer(name, found.mapped[name])    for each, and the session is made in here

ONNX Runtime takes weights from the graph's bytes or from one folder. What is in neither is computed tensor by tensor,
each into a file without a name, and mapped: memory grows with the largest, where bytes would hold all, three times
over. `add_external_initializers`, which is made for this, copies them: 1.31.1, measured.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import onnx_ir as ir

if TYPE_CHECKING:
    import onnxruntime as ort

STAND_IN = "computed"
SMALLEST = 1 << 16  # bytes; what is smaller goes with the graph
WORDS = (1, 2, 4, 8)  # bytes of an entry; numpy is told the size alone, and the runtime the type


class Computed(NamedTuple):
    """Where the runtime looks for files, and what it is given instead: mapped as long as somebody keeps it."""

    folder: Path | None
    mapped: dict[str, ort.OrtValue]


@contextmanager
def computed(model: ir.Model, folder: Path | None, location: str) -> Iterator[Computed]:
    """While it lasts, the lazy weights are said to lie at `location` in `folder`, where nobody reads them.

    The runtime looks whether there is such a file. Where there is no folder, one stands in for it.
    """
    lazy = {name: value for name, value in model.graph.initializers.items() if _is_lazy(value.const_value)}
    tensors = {name: value.const_value for name, value in lazy.items()}
    if not lazy:
        yield Computed(folder, {})
        return
    with tempfile.TemporaryDirectory(prefix="compress-") as empty:
        (Path(empty) / STAND_IN).touch()
        place = location if folder else STAND_IN
        try:
            yield Computed(folder or Path(empty), {name: _mapped(value, place) for name, value in lazy.items()})
        finally:
            for name, value in lazy.items():
                value.const_value = tensors[name]


def _is_lazy(tensor: ir.TensorProtocol | None) -> bool:
    large = isinstance(tensor, ir.LazyTensor) and tensor.nbytes >= SMALLEST
    return tensor is not None and large and tensor.dtype.itemsize in WORDS


def _mapped(value: ir.Value, location: str) -> ort.OrtValue:
    """The tensor in a file of its own without a name, which is gone when nobody maps it."""
    from onnxruntime import OrtValue

    tensor = value.const_value
    assert isinstance(tensor, ir.LazyTensor), "asked by _is_lazy"
    shape, name = tuple(tensor.shape.numpy()), tensor.name or ""
    with tempfile.TemporaryFile(prefix="compress-") as file:
        tensor.tofile(file)
        file.flush()
        words = np.memmap(file, f"u{int(tensor.dtype.itemsize)}", "r+", shape=shape)
    value.const_value = ir.ExternalTensor(location, 0, tensor.nbytes, tensor.dtype, shape=ir.Shape(shape), name=name)
    return OrtValue.ortvalue_from_numpy_with_onnx_type(words, int(tensor.dtype))
