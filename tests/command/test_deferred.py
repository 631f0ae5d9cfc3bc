"""`compress optimize` executes nothing that it puts off, for a graph that asks for nothing of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from compressor.command.deferred import DEFERRED
from compressor.graph.session import save_model
from tests import graphs
from tests.conftest import ROOT

REPORT = """
import gc, json, os, sys, types, cli
try:
    cli.main(sys.argv[1:])
except SystemExit as end:
    assert end.code == 0
executed = [name for name, module in sys.modules.items() if type(module) is types.ModuleType]  # else put off still
print(json.dumps({"executed": executed, "blas": os.environ["OPENBLAS_NUM_THREADS"], "garbage": gc.get_threshold()[0]}))
"""

# What numpy.typing holds before and after it is asked for more than annotations want; a star import of what is put off.
ANNOTATED = """
from compressor.command import deferred
deferred.hasten()
import numpy, numpy.typing as npt
print(npt.NDArray[numpy.float32], npt.ArrayLike, type(npt).__name__)
import numpy._typing._nbit
print(npt.NBitBase.__module__, npt.NDArray is numpy._typing.NDArray, npt.ArrayLike is numpy._typing.ArrayLike)
print(type(npt).__name__, type(numpy._typing).__name__, str(npt.ArrayLike)[:12])
from uuid import *
import uuid
print(NAMESPACE_DNS is uuid.NAMESPACE_DNS, type(uuid).__name__)
"""

# In an interpreter of its own: this one has loaded everything long ago.
WITH_TORCH = """
import sys
from compressor.command.deferred import defer
defer()
import onnx_ir, torch
print("sympy" in sys.modules, "sympy.core" in sys.modules)
dimension = onnx_ir.SymbolicDim("N") + 1
print(dimension, "sympy.core" in sys.modules)
put_off = ["torch._meta_registrations", "torch.distributions", "torch.quantization", "torch.utils.data"]
print({type(sys.modules[name]).__name__ for name in put_off}, "torch._decomp" in sys.modules)
print(float((torch.ones(2, 3) @ torch.ones(3, 2)).sum()), torch.empty(2, 3, device="meta").sort().values.shape)
import compressor.stages.quantizing
print("torch._decomp" in sys.modules)
from torch.utils.data import dataloader
from torch.utils.data import Dataset
print(dataloader.Dataset is Dataset, float(torch.distributions.Normal(1.0, 2.0).variance))
"""


def test_what_is_put_off_is_not_executed(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    save_model(graphs.build("(float[N,64] x) => (float[N,8] y) { y = MatMul(x, w) }", w=graphs.normal(64, 8)), path)
    command = [sys.executable, "-c", REPORT, "optimize", path, "-o", tmp_path / "out"]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    said = json.loads(ended.stdout.splitlines()[-1])
    executed = set(said["executed"])
    assert {"numpy", "onnx", "onnxruntime"} <= executed
    assert sorted(executed & (DEFERRED | {"typer", "pydantic", "rich", "onnxscript", "torch"})) == []
    assert (said["blas"], said["garbage"]) == ("1", 100_000)


def test_sympy_waits_for_torch_too_until_a_dimension_is_computed_with() -> None:
    run = subprocess.run([sys.executable, "-c", WITH_TORCH], capture_output=True, text=True, check=True, cwd=ROOT)
    assert run.stdout.splitlines()[:2] == ["True False", "N + 1 True"]


def test_torch_computes_without_what_it_puts_off_and_finds_it_when_asked() -> None:
    run = subprocess.run([sys.executable, "-c", WITH_TORCH], capture_output=True, text=True, check=True, cwd=ROOT)
    assert run.stdout.splitlines()[2:] == ["{'Deferred'} False", "12.0 torch.Size([2, 3])", "False", "True 4.0"]


def test_annotations_are_answered_without_the_module_and_all_else_by_it() -> None:
    run = subprocess.run([sys.executable, "-c", ANNOTATED], capture_output=True, text=True, check=True, cwd=ROOT)
    assert run.stdout.splitlines() == [
        "numpy.ndarray[numpy.float32] typing.Any Annotations",
        "numpy.typing True True",
        "module module typing.Union",
        "True module",
    ]
