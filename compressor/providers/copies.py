"""Copies between host and device that a placement costs on every run, as ONNX Runtime inserts them.

    computed on the device, read on the host      MemcpyToHost
    computed on the host, read on the device      MemcpyFromHost
    a graph input that both sides read            MemcpyFromHost (read by one side alone, it goes there directly)

One copy a value and graph, however many read it; constants lie on both sides from the start. Inputs that a device's
kernel reads from the host's memory, and outputs it leaves there, belong to the host (`rules.HOST_INPUTS`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import onnx_ir as ir

from compressor.providers import rules
from compressor.providers.graph_types import dims
from compressor.providers.kernels import CPU, CUDA
from compressor.providers.placement import Placed, host_outputs

Direction = Literal["to host", "from host"]


@dataclass(frozen=True)
class Copy:
    """One value that crosses, who makes it, who makes it necessary, and its bytes (free axes counted as 1)."""

    value: str
    direction: Direction
    maker: str
    readers: tuple[str, ...]
    nbytes: int


@dataclass
class _Sides:
    """Values by the memory in which they are made and read, in the order of the graph."""

    made_on_host: dict[ir.Value, Placed] = field(default_factory=dict)
    made_on_device: dict[ir.Value, Placed] = field(default_factory=dict)
    read_on_host: dict[ir.Value, list[Placed]] = field(default_factory=dict)
    read_on_device: dict[ir.Value, list[Placed]] = field(default_factory=dict)


def find(placed: Sequence[Placed]) -> list[Copy]:
    """The copies of every graph, in order."""
    graphs = dict.fromkeys(one.graph for one in placed)
    return [copy for graph in graphs for copy in _of([one for one in placed if one.graph is graph])]


def _of(placed: Sequence[Placed]) -> Iterator[Copy]:
    """Of the nodes of one graph."""
    sides = _Sides()
    for one in placed:
        _sort(one, sides)
    own = {value for one in placed for value in one.node.outputs}
    both = [value for value in sides.read_on_device if value in sides.read_on_host and value.const_value is None]
    for given in both:  # graph inputs, and for a body the values that it captures
        if given not in own:
            yield _copy(given, "from host", "graph input", sides.read_on_device[given])
    for value, maker in sides.made_on_host.items():
        if readers := sides.read_on_device.get(value):
            yield _copy(value, "from host", maker.name, readers)
    for value, maker in sides.made_on_device.items():
        if readers := sides.read_on_host.get(value):
            yield _copy(value, "to host", maker.name, readers)


def _sort(placed: Placed, sides: _Sides) -> None:
    node, on_host = placed.node, placed.provider in (CPU, None)
    on_cuda = placed.provider == CUDA  # an engine of TensorRT has no such inputs: what it reads it reads as one
    kept = set(node.outputs) if on_host else set(host_outputs(node)) if on_cuda else set()
    for output in node.outputs:
        (sides.made_on_host if output in kept else sides.made_on_device)[output] = placed
    host_inputs = rules.HOST_INPUTS.get((node.domain, node.op_type), ()) if on_cuda else ()
    for index, value in enumerate(node.inputs):
        if value is not None:
            read = sides.read_on_host if on_host or index in host_inputs else sides.read_on_device
            read.setdefault(value, []).append(placed)


def _copy(value: ir.Value, direction: Direction, maker: str, readers: Sequence[Placed]) -> Copy:
    sizes = dims(value) or []
    nbytes = math.ceil(math.prod(size or 1 for size in sizes) * (value.dtype.itemsize if value.dtype else 0))
    return Copy(str(value.name), direction, maker, tuple(one.name for one in readers), nbytes)
