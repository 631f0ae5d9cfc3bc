"""Which kernels an ONNX Runtime version has: (provider, operator, opset, types) -> a kernel, or none.

The tables are data (`tables/onnxruntime-<version>.csv`), made from the wheels by `extract.py`; the newest judges all
targets. The match is ONNX Runtime's own:

    a kernel for opsets [first, last] serves an operator whose definition dates from `since` when
        first == since, or first < since <= last and the kernel states its last opset
    and each of its type constraints allows the type of the first input or output that bears it
"""

from __future__ import annotations

import csv
import functools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
PROVIDERS = {"cpu": CPU, "cuda": CUDA, "tensorrt": TENSORRT}
TABLES = Path(__file__).parent / "tables"
HEADER = ("provider", "domain", "operator", "first", "last", "types")
OPEN = 2**31 - 1  # the last opset of a kernel that names none
PREFIX = "onnxruntime-"

Types = Mapping[str, str | None]  # type variable, or name of an input or output -> the type it has in a node


@dataclass(frozen=True)
class Kernel:
    """One row: opsets it serves, and the types it takes by type variable or input."""

    first: int
    last: int
    types: Mapping[str, frozenset[str]]

    def serves(self, since: int) -> bool:
        return self.first == since or (self.first < since <= self.last != OPEN)

    def takes(self, types: Types) -> bool:
        """An optional input that is absent has no type and constrains nothing."""
        return all((given := types.get(name)) is None or given in known for name, known in self.types.items())


@dataclass(frozen=True)
class KernelTable:
    """The kernels of one ONNX Runtime version."""

    version: str
    kernels: Mapping[tuple[str, str, str], Sequence[Kernel]] = field(repr=False)

    def find(self, provider: str, domain: str, op_type: str, since: int, types: Types) -> Kernel | None:
        """The kernel that runs an operator, or None."""
        known = self.kernels.get((provider, domain, op_type), ())
        return next((one for one in known if one.serves(since) and one.takes(types)), None)

    def types_of(self, provider: str, domain: str, op_type: str, since: int) -> list[str]:
        """What a provider takes, for a reader: `T: double|float`."""
        known = (one for one in self.kernels.get((provider, domain, op_type), ()) if one.serves(since))
        return sorted({f"{name}: {'|'.join(sorted(types))}" for one in known for name, types in one.types.items()})


@functools.cache
def newest() -> KernelTable:
    """The table of the newest version that there is one of."""
    return read(TABLES / file_name(max(versions(), key=_numbers)))


def versions() -> list[str]:
    return [path.stem.removeprefix(PREFIX) for path in TABLES.glob(f"{PREFIX}*.csv")]


def file_name(version: str) -> str:
    return f"{PREFIX}{version}.csv"


def read(path: Path) -> KernelTable:
    kernels: dict[tuple[str, str, str], list[Kernel]] = defaultdict(list)
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            key = (PROVIDERS[row["provider"]], row["domain"], row["operator"])
            kernels[key].append(Kernel(int(row["first"]), int(row["last"] or OPEN), _types(row["types"])))
    return KernelTable(path.stem.removeprefix(PREFIX), kernels)


@functools.cache
def schemas() -> Mapping[tuple[str, str], Sequence[Any]]:
    """ONNX Runtime's own operator definitions, oldest first: standard and contributed ones alike."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    found: dict[tuple[str, str], list[Any]] = defaultdict(list)
    for schema in state.get_all_operator_schema():
        found[schema.domain, schema.name].append(schema)
    return {name: sorted(ages, key=lambda one: int(one.since_version)) for name, ages in found.items()}


def schema(domain: str, op_type: str, opset: int) -> Any | None:
    """The definition that an opset means; None for an operator that nobody defines."""
    known = [one for one in schemas().get((domain, op_type), ()) if one.since_version <= opset]
    return known[-1] if known else None


def short_type(type_: str) -> str:
    """tensor(float) -> float, as the tables write it; sequences and optionals keep their names."""
    inner = type_.removeprefix("tensor(")
    return inner.removesuffix(")") if inner != type_ else type_


def _types(text: str) -> dict[str, frozenset[str]]:
    pairs = (one.split(":", 1) for one in text.split(";") if one)
    return {name: frozenset(types.split("|")) for name, types in pairs}


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
