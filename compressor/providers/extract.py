"""The kernel table of the installed ONNX Runtime: `python -m compressor.providers.extract` (or `make kernels`).

    every kernel of every provider  ->  compressor/providers/tables/onnxruntime-<version>.csv, sorted, one row a kernel

The next version: install its onnxruntime-gpu wheel, run this, commit the new file. The table names the kernels by
operator, opsets and types; kernels that differ in one type alone are one row.
"""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from compressor.providers import stubs
from compressor.providers.kernels import HEADER, OPEN, PROVIDERS, TABLES, TENSORRT, file_name, short_type

# In a process of its own: without CUDA libraries this very call takes the process down.
LIST = """
import json
from onnxruntime.capi import onnxruntime_pybind11_state as state
print(json.dumps([[k.provider, k.domain, k.op_name, *k.version_range, k.type_constraints]
                  for k in state.get_all_opkernel_def()]))
"""
SHORT = {provider: name for name, provider in PROVIDERS.items() if provider != TENSORRT}  # its parser has no kernels

Constraints = tuple[tuple[str, tuple[str, ...]], ...]  # (type variable or input, its types), sorted
Row = tuple[str, str, str, int, int | str, str]


def main() -> None:
    import onnxruntime

    (TABLES / file_name(onnxruntime.__version__)).write_text(text(), encoding="utf-8")


def text() -> str:
    """The table of the installed wheel, as its file holds it."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(HEADER)
    writer.writerows(_rows())
    return file.getvalue()


def _rows() -> list[Row]:
    """Every kernel, sorted."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, **stubs.build(Path(folder))}
        listed = subprocess.run([sys.executable, "-c", LIST], env=environment, capture_output=True, check=True)
    kernels: dict[tuple[str, str, str, int, int], set[Constraints]] = defaultdict(set)
    for provider, domain, op_type, first, last, constraints in json.loads(listed.stdout.splitlines()[-1]):
        types = tuple(sorted((name, tuple(sorted(one))) for name, one in constraints.items()))
        if provider in SHORT:
            kernels[provider, domain, op_type, first, last].add(types)
    every = sorted((*key, _constraints(one)) for key, variants in kernels.items() for one in _merged(variants))
    return [(SHORT[row[0]], *row[1:4], "" if row[4] == OPEN else row[4], row[5]) for row in every]


def _merged(variants: Iterable[Constraints]) -> set[Constraints]:
    """Join kernels that differ in one type variable alone: T:float and T:double are T:double|float."""
    left = sorted(set(variants))
    for index, one in enumerate(left):
        for other in left[index + 1 :]:
            places = [place for place, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]]
            if [name for name, _ in one] == [name for name, _ in other] and len(places) == 1:
                name, types = one[places[0]]
                joined = (name, tuple(sorted({*types, *other[places[0]][1]})))
                rest = set(left) - {one, other}
                return _merged(rest | {(*one[: places[0]], joined, *one[places[0] + 1 :])})
    return set(left)


def _constraints(constraints: Constraints) -> str:
    return ";".join(f"{name}:{'|'.join(short_type(one) for one in types)}" for name, types in constraints)


if __name__ == "__main__":
    main()
