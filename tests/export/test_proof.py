"""A proof passes on a right graph, fails on a wrong one, and says where it goes wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch

from compressor import estimate
from compressor.errors import LimitMissedError, RequestError
from compressor.export import causal_lm, proof, provenance, reference
from compressor.export.proof import Case
from compressor.graph.decoder import LOGITS, MASK
from compressor.graph.session import load_model, save_model
from compressor.providers import environment
from tests import decoders
from tests.decoders import Exported

CASES = ["prefill", "prefill of 3", "padded", "decode", "chunked"]


def spoil(graph: Path, target: Path, weight: str, change: Callable[[np.ndarray], np.ndarray]) -> Path:
    """The same graph with one weight changed."""
    model = load_model(graph)
    value = model.graph.initializers[weight]
    value.const_value = ir.Tensor(change(value.const_value.numpy()), name=weight)
    save_model(model, target)
    return target


def test_a_right_graph_passes_every_case(exported: Callable[[str], Exported]) -> None:
    llama = exported("llama")
    found = causal_lm.prove(llama.origin, llama.path)
    assert [one.case for one in found] == CASES
    assert all(one.difference < 1e-5 for one in found)  # seen 1e-6; the tolerance leaves room for depth


@pytest.mark.parametrize(
    ("weight", "module"),
    [
        ("lm_head.weight", "model.embed_tokens"),  # tied: the first to read it
        ("model.layers.1.mlp.down_proj.weight", "model.layers.1.mlp.down_proj"),
        ("model.layers.0.self_attn.k_proj.weight", "model.layers.0.self_attn.k_proj"),
        ("model.norm.weight", "model.norm"),
    ],
)
def test_a_wrong_weight_is_found_and_named(
    exported: Callable[[str], Exported], tmp_path: Path, weight: str, module: str
) -> None:
    llama = exported("llama")
    wrong = spoil(llama.path, tmp_path / "wrong.onnx", weight, lambda array: array * np.float32(1.01))
    with pytest.raises(LimitMissedError, match=rf"logits of case 'prefill'.*whose output departs is {module}$"):
        causal_lm.prove(llama.origin, wrong)


def test_a_graph_that_ignores_its_mask_fails_where_rows_are_padded(
    exported: Callable[[str], Exported], tmp_path: Path
) -> None:
    llama = exported("llama")
    model = llama.graph()
    mask = next(value for value in model.graph.inputs if value.name == MASK)
    present = ir.Node("", "GreaterOrEqual", [mask, mask])  # true wherever it looks
    (reader,) = {use.node for use in mask.uses()} - {present}
    model.graph.insert_before(reader, present)
    assert reader.op_type == "Cast"  # to bool
    reader.outputs[0].replace_all_uses_with(present.outputs[0])
    save_model(model, tmp_path / "blind.onnx")
    with pytest.raises(LimitMissedError, match="case 'padded'"):
        causal_lm.prove(llama.origin, tmp_path / "blind.onnx")


def test_a_large_checkpoint_is_mapped_and_computed_in_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As 14 GB of bfloat16 would be: the reference holds none of it, and loses none of its digits."""
    monkeypatch.setattr(estimate, "HELD_BELOW_BYTES", 0)
    decoders.random_model("gpt2").bfloat16().save_pretrained(tmp_path)
    origin = causal_lm.load(tmp_path, 21)
    save_model(causal_lm.export(origin, 21), tmp_path / "model.onnx")
    plan = reference.Plan.of(origin)
    assert (plan.is_mapped, plan.held_bytes, plan.dtype) == (True, 0, torch.bfloat16)
    assert all(one.difference < 1e-5 for one in causal_lm.prove(origin, tmp_path / "model.onnx"))
    assert origin.facts["reference"] == "weights mapped in bfloat16, computed in float32"


def test_a_reference_that_does_not_fit_is_said(
    exported: Callable[[str], Exported], monkeypatch: pytest.MonkeyPatch
) -> None:
    llama = exported("llama")
    monkeypatch.setattr(environment, "memory", lambda: (100_000, 200_000))
    monkeypatch.setitem(llama.origin.facts, "fallbacks", [])
    assert causal_lm.prove(llama.origin, llama.path) == []
    (said,) = llama.origin.facts["fallbacks"]
    assert said.startswith("proof: not compared with torch, whose weights would take 0.0 GB of 0.0 GB free")


def test_what_is_not_a_number_is_no_agreement() -> None:
    one, nan = np.ones(3, np.float32), np.full(3, np.nan, np.float32)
    assert proof.relative_difference(one, nan) == np.inf
    assert proof.relative_difference(nan, nan) == 0
    assert proof.relative_difference(one, one[:2]) == np.inf
    assert proof.relative_difference(2 * one, one) == 0.5


def test_a_missing_output_is_said(exported: Callable[[str], Exported]) -> None:
    llama = exported("llama")
    case = Case("odd", lambda run: run(llama.runner.decoder.feeds(np.ones((1, 3), np.int64))), {"score": np.ones(1)})
    with pytest.raises(RequestError, match="case 'odd': the graph has no output score"):
        proof.prove(llama.path, [case], ir.DataType.FLOAT)


def test_nodes_are_named_by_their_modules(exported: Callable[[str], Exported]) -> None:
    graph = exported("llama").graph().graph
    names = [node.name for node in graph]
    assert len(set(names)) == len(names)
    modules = {provenance.module_of(node) for node in graph}
    assert {"model.layers.0.self_attn.q_proj", "model.layers.1.mlp", "model.norm", "lm_head"} <= modules
    (logits,) = provenance.outputs_of(graph, "lm_head")
    assert logits.name == LOGITS
