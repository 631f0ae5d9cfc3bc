"""`compress optimize` says what it left alone, and under `--strict` a pass that was rolled back fails the command."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest

from passes.dropout_removal import DropoutRemoval
from tests import graphs

Compress = Callable[..., Any]


def saved(model: ir.Model, folder: Path) -> Path:
    ir.save(model, folder / "model.onnx")
    return folder / "model.onnx"


def test_explain_names_node_and_reason(tmp_path: Path, compress: Compress) -> None:
    path = saved(graphs.conv_batchnorm_trains(), tmp_path)
    ended = compress("optimize", path, "-o", tmp_path / "out", "--explain")
    assert ended.code == 0
    assert "training_mode is 1, so Y depends on the batch (y)" in ended.out


def test_a_pass_that_is_rolled_back_is_named_with_its_node(
    tmp_path: Path, compress: Compress, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(self: DropoutRemoval, model: ir.Model) -> ir.passes.PassResult:
        model.graph[-1].op_type = "Abs"
        self.__dict__["edited"] = ["Exp y"]
        return ir.passes.PassResult(model, modified=True)

    monkeypatch.setattr(DropoutRemoval, "call", spoil)
    path = saved(graphs.dropout(13), tmp_path)
    ended = compress("optimize", path, "-o", tmp_path / "out", "--strict", "--json")
    assert ended.code == 1
    assert "pass DropoutRemoval rolled back" in ended.err
    assert "first with Exp y" in ended.err
    assert any(row["rolled_back"] for row in json.loads(ended.out)["passes"])


def test_a_second_run_changes_nothing(tmp_path: Path, compress: Compress) -> None:
    path = saved(graphs.conv_batchnorm(), tmp_path)
    assert compress("optimize", path, "-o", tmp_path / "once").code == 0
    ended = compress("optimize", tmp_path / "once", "-o", tmp_path / "twice", "--json")
    assert not any(row["modified"] for row in ended.json()["passes"])
    first, second = (tmp_path / name / "model.onnx" for name in ("once", "twice"))
    assert first.read_bytes() == second.read_bytes()
