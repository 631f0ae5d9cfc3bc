"""A pool in half precision: half the bytes, and both backends say the same from it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir
import pytest

from compressor.package import paged
from compressor.paged_decoder import PAGED_MODEL
from compressor.recipe import Paged
from compressor.serve.backend import Limits
from compressor.serve.served import BACKENDS, Served
from compressor.session import load_model
from compressor.validate import paged as check
from compressor.validate.subject import Subject as Side
from tests.serve.conftest import Subject
from tests.serve.serving import mixed, serve

pytest.importorskip("onnxruntime_genai", reason="onnxruntime-genai is not installed; `pip install .[genai]`")

CRAMPED = Limits(num_blocks=10, block_size=16, max_batch=8, max_step_tokens=20, context=512, threads=1)


@pytest.fixture
def halved(tiny: Callable[[int | None], Subject], tmp_path: Path) -> Served:
    folder = tmp_path / "halved"
    shutil.copytree(tiny(4).folder, folder)
    paged.write(folder, json.loads((folder / "config.json").read_text(encoding="utf-8")), "cpu", "float16")
    return Served.open(folder)


def test_it_takes_half_and_both_backends_say_the_same(halved: Served, tiny: Callable[[int | None], Subject]) -> None:
    assert halved.block_bytes * 2 == tiny(4).served.block_bytes
    requests = mixed(20, 512)
    engine, reference = ([one.tokens for one in serve(halved.backend(name, CRAMPED)(), requests)] for name in BACKENDS)
    assert engine == reference


def test_the_twin_is_held_to_the_contiguous_graph(halved: Served) -> None:
    """Keys and values are rounded to 11 bits: 2**-11 of each, and a few of them add up in a logit."""
    (found,) = check.measure(Side(halved.folder / "model.onnx"), Paged())
    assert found.passed
    assert 0 < found.value < 2**-9


def test_products_and_attention_stay_as_they_were(halved: Served) -> None:
    model = load_model(halved.folder / PAGED_MODEL)
    assert {value.dtype for value in model.graph.inputs if "past_key" in str(value.name)} == {ir.DataType.FLOAT16}
    casts = [node for node in model.graph if node.op_type == "Cast"]
    layers = int(halved.model["decoder"]["num_hidden_layers"])
    to_half = [node for node in casts if node.attributes["to"].as_int() == ir.DataType.FLOAT16]
    assert len(to_half) == 2 * layers
