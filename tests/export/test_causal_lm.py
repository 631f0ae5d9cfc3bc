"""torch against ONNX Runtime with its optimizations off, at shapes that were not traced.

The reference reads each text alone: what a cache, padding or a neighbour in the batch changes is a fault of the graph.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from compressor.errors import RequestError
from compressor.export import causal_lm
from compressor.graph.decoder import MASK, POSITIONS
from compressor.graph.session import graph_nbytes
from tests import decoders
from tests.decoders import ARCHITECTURES, Exported

# Two layers of sums of at most 172 products of float32, in another order: 2e-6 was seen on logits of up to 8.
CLOSE = {"rtol": 0, "atol": 5e-5}


@pytest.fixture(scope="session", params=ARCHITECTURES)
def decoder(request: pytest.FixtureRequest, exported: Callable[[str], Exported]) -> Exported:
    return exported(request.param)


def expected(decoder: Exported, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Logits [real tokens, vocab] of each row's real tokens, read alone."""
    return np.concatenate([decoder.alone(row[real == 1]) for row, real in zip(ids, mask, strict=True)])


@pytest.mark.parametrize(("batch", "length"), [(1, 1), (1, 2), (1, 13), (3, 1), (3, 11)])
def test_prefill(decoder: Exported, batch: int, length: int) -> None:
    ids = decoders.tokens(batch, length)
    logits = decoder.runner.logits(ids).reshape(-1, decoders.VOCABULARY)
    np.testing.assert_allclose(logits, expected(decoder, ids, np.ones_like(ids)), **CLOSE)


def test_padded_rows_left_and_right(decoder: Exported) -> None:
    ids = decoders.tokens(3, 11)
    mask = np.ones_like(ids)
    mask[0, :4], mask[1, -3:] = 0, 0
    logits = decoder.runner.logits(ids, mask)
    np.testing.assert_allclose(logits[mask == 1], expected(decoder, ids, mask), **CLOSE)
    assert np.isfinite(logits).all()  # a row that sees nothing must not poison the next layer


@pytest.mark.parametrize("prompt", [1, 2, 7])
def test_decode_token_by_token_on_a_cache(decoder: Exported, prompt: int) -> None:
    """The cache that a step meets has `prompt` tokens and more; after one token that is a past of 1."""
    ids = decoders.tokens(3, 11)
    logits, past = decoder.runner.step(ids[:, :prompt])
    steps = [logits]
    for at in range(prompt, ids.shape[1]):
        logits, past = decoder.runner.step(ids[:, at : at + 1], past=past)
        steps.append(logits)
    joined = np.concatenate(steps, 1).reshape(-1, decoders.VOCABULARY)
    np.testing.assert_allclose(joined, expected(decoder, ids, np.ones_like(ids)), **CLOSE)


def test_decode_of_a_batch_padded_left(decoder: Exported) -> None:
    ids = decoders.tokens(3, 11)
    mask = np.ones_like(ids)
    mask[0, :4], mask[2, :1] = 0, 0
    logits, past = decoder.runner.step(ids[:, :7], mask[:, :7])
    steps = [logits]
    for at in range(7, 11):
        logits, past = decoder.runner.step(ids[:, at : at + 1], mask[:, : at + 1], past)
        steps.append(logits)
    np.testing.assert_allclose(np.concatenate(steps, 1)[mask == 1], expected(decoder, ids, mask), **CLOSE)


@pytest.mark.parametrize("cut", [1, 4, 10])
def test_prompt_in_two_chunks(decoder: Exported, cut: int) -> None:
    ids = decoders.tokens(1, 11)
    first, past = decoder.runner.step(ids[:, :cut])
    second, _ = decoder.runner.step(ids[:, cut:], past=past)
    np.testing.assert_allclose(np.concatenate([first, second], 1)[0], decoder.alone(ids[0]), **CLOSE)


def test_the_sliding_window_is_felt(exported: Callable[[str], Exported]) -> None:
    """Or the agreement above would say nothing about it: tokens that left the window of every layer change nothing."""
    mistral, ids = exported("mistral"), decoders.tokens(1, 11)
    other = ids.copy()
    other[0, 0] = (ids[0, 0] + 1) % decoders.VOCABULARY
    difference = np.abs(mistral.runner.logits(ids) - mistral.runner.logits(other))[0].max(-1)
    reach = 2 * (4 - 1)  # two layers of a window of 4
    assert difference[reach] > 0
    assert not difference[reach + 1 :].any()


def test_the_interface_has_its_names_and_free_axes(decoder: Exported) -> None:
    graph, heads = decoder.graph().graph, decoder.runner.decoder
    batch, sequence, past, total = "batch_size", "sequence_length", "past_sequence_length", "total_sequence_length"
    cache = [f"past_key_values.{layer}.{part}" for layer in (0, 1) for part in ("key", "value")]
    assert {value.name: shape_of(value) for value in graph.inputs} == {
        "input_ids": [batch, sequence],
        "attention_mask": [batch, total],
        "position_ids": [batch, sequence],
        **{name: [batch, heads.kv_heads, past, heads.head_size] for name in cache},
    }
    present = [f"present.{layer}.{part}" for layer in (0, 1) for part in ("key", "value")]
    assert {value.name: shape_of(value) for value in graph.outputs} == {
        "logits": [batch, sequence, decoders.VOCABULARY],
        **{name: [batch, heads.kv_heads, total, heads.head_size] for name in present},
    }


def shape_of(value: object) -> list[str | int]:
    return [size if isinstance(size, int) else str(size) for size in value.shape]


def test_mask_and_positions_are_read(decoder: Exported) -> None:
    """An all-ones mask disappears from a traced graph, and so does a sample's position."""
    inputs = {value.name: value for value in decoder.graph().graph.inputs}
    assert inputs[MASK].uses()
    assert inputs[POSITIONS].uses()


def test_parameters_keep_their_names_and_values(decoder: Exported) -> None:
    initializers = decoder.graph().graph.initializers
    for parameter, names in names_of_parameters(decoder).items():
        (kept,) = names & set(initializers)
        np.testing.assert_array_equal(initializers[kept].const_value.numpy(), parameter.numpy())


def test_tied_weights_are_stored_once(exported: Callable[[str], Exported]) -> None:
    for architecture, tied in {"llama": True, "qwen3": False, "gpt2": True}.items():
        decoder = exported(architecture)
        parameters = sum(parameter.nbytes for parameter in names_of_parameters(decoder))
        assert any(len(names) == 2 for names in names_of_parameters(decoder).values()) == tied
        stored = graph_nbytes(decoder.path)
        graph = 150_000  # nodes and shapes, and tensors aligned in their file; the embedding alone has 25,344 bytes
        assert parameters < stored < parameters + graph
        big = [v.const_value for v in decoder.graph().graph.initializers.values() if v.const_value.nbytes > 4096]
        assert len({tensor.tobytes() for tensor in big}) == len(big), "a weight is stored twice"


def names_of_parameters(decoder: Exported) -> dict[torch.Tensor, set[str]]:
    """Each parameter once, with every name that the model has for it."""
    names: dict[int, set[str]] = {}
    named = list(decoder.torch_model.named_parameters(remove_duplicate=False))
    for name, parameter in named:
        names.setdefault(id(parameter), set()).add(name)
    return {parameter.data: names[id(parameter)] for _, parameter in decoder.torch_model.named_parameters()}


def test_no_path_of_this_machine_is_in_the_file(decoder: Exported) -> None:
    content = decoder.path.read_bytes()
    here = {str(Path.cwd()), sys.prefix, str(Path(torch.__file__).parent), os.path.expanduser("~"), ".py"}
    assert not [path for path in here if path.encode() in content]


def test_the_file_is_valid_and_of_a_version_that_is_read_everywhere(decoder: Exported) -> None:
    onnx.checker.check_model(str(decoder.path), full_check=True)
    graph = decoder.graph()
    assert (graph.ir_version, graph.opset_imports) == (10, {"": decoder.opset})
    assert not graph.functions


def test_attention_is_one_operator_where_the_opset_has_it(exported: Callable[[str], Exported]) -> None:
    operators = {name: [node.op_type for node in exported(name).graph().graph] for name in ("llama", "llama_23")}
    assert operators["llama_23"].count("Attention") == 2
    assert "Attention" not in operators["llama"]


def test_a_folder_that_is_no_decoder_is_a_wrong_request(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "resnet"}')
    with pytest.raises(RequestError, match="transformers cannot load it as a decoder"):
        causal_lm.load(tmp_path, 21)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_checkpoint_of_another_type_is_converted(tmp_path: Path, dtype: str) -> None:
    model = decoders.random_model("llama").bfloat16()
    model.save_pretrained(tmp_path)
    origin = causal_lm.load(tmp_path, 21, dtype)
    assert not any(module.training for module in origin.model.modules())
    initializers = causal_lm.export(origin, 21).graph.initializers
    name = "model.layers.1.mlp.up_proj.weight"
    expected = model.get_parameter(name).detach().to(getattr(torch, dtype))
    np.testing.assert_array_equal(initializers[name].const_value.numpy(), expected.numpy())
