"""`compress bench --against builder:MODEL`: the builder's graph at our bits, seen as the decoder it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir
import pytest

from compressor import rivals, sources
from compressor.errors import RequestError
from compressor.validate.subject import Subject
from tests.conftest import FirstRun, Outcome

pytest.importorskip("onnxruntime_genai", reason="onnxruntime-genai is not installed; `pip install .[genai]`")


def quantized(*bits: int) -> ir.Model:
    """Products of these widths, one after another, and a head in float."""
    values = [ir.Value(name=f"x{index}") for index in range(len(bits) + 1)]
    nodes = [
        ir.node("MatMulNBits", [before], {"bits": one, "block_size": 32, "accuracy_level": 4}, outputs=[after])
        for one, before, after in zip(bits, values, values[1:], strict=False)
    ]
    logits = ir.Value(name="logits")
    nodes.append(ir.node("MatMul", [values[-1]], outputs=[logits]))
    return ir.Model(ir.Graph(values[:1], [logits], nodes=nodes), ir_version=10)


def test_the_builder_is_told_how_the_artifact_stores_its_weights() -> None:
    told = {"precision": "int8", "block_size": "32", "accuracy_level": "4", "nodes_to_exclude": rivals.HEAD}
    assert rivals.asked(quantized(8, 8)) == told
    assert rivals.asked(quantized()) == {"precision": "fp32"}
    with pytest.raises(RequestError, match="one width"):
        rivals.asked(quantized(4, 8))
    with pytest.raises(RequestError, match="4 or 8 bits"):
        rivals.asked(quantized(3))


def test_the_builders_graph_is_measured_as_a_decoder(first: FirstRun) -> None:
    """One layer of the small run has 4 bits, so all of the rival's have; its head is left as ours is."""
    ours = sources.open_input(first.run.output)
    with rivals.opened("builder:builtin:tiny-lm", ours, "cpu") as rival:
        assert rival is not None
        side = Subject(rival.model)
        assert side.decoder is not None
        assert replace(side.decoder, inputs=()) == replace(Subject(ours.model).decoder, inputs=())
        products = [node for node in side.model.graph if node.op_type == "MatMulNBits"]
        assert {node.attributes["bits"].as_int() for node in products} == {4}
        assert "/lm_head/MatMulNBits" not in {node.name for node in products}
        place = rival.model
    assert not place.exists()


def test_what_the_builder_does_not_make_is_told(
    first: FirstRun, tmp_path: Path, compress: Callable[..., Outcome]
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", "architectures": ["BertModel"]}))
    (tmp_path / "model.safetensors").write_bytes(b"\2\0\0\0\0\0\0\0{}")
    ended = compress("bench", first.run.output, "--against", f"builder:{tmp_path}")
    assert (ended.code, "onnxruntime-genai's builder does not make it" in ended.err) == (2, True)


def test_the_builder_is_asked_for_the_cpu_alone(first: FirstRun, compress: Callable[..., Outcome]) -> None:
    call = ("bench", first.run.output, "--against", "builder:builtin:tiny-lm", "--provider", "cuda")
    ended = compress(*call)
    assert (ended.code, "made for the cpu" in ended.err) == (2, True)


def test_a_rival_that_is_not_there_is_told(first: FirstRun, compress: Callable[..., Outcome]) -> None:
    assert compress("bench", first.run.output, "--against", "nowhere").code == 2
