"""An encoder and a decoder as two graphs: what they generate together is what transformers' own loop generates."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
import transformers

from compressor import pipeline, sources
from compressor.artifact import Artifact
from compressor.errors import LimitMissedError, RequestError
from compressor.export import exporters
from compressor.graph.session import load_model, open_session, save_model
from compressor.recipe import recipe
from compressor.shelf import Shelf
from tests import architectures
from tests.conftest import Outcome

START = 0  # T5 begins with its padding token


class Pair:
    """A random T5, the artifact it became, and a loop over its two graphs."""

    def __init__(self, folder: Path) -> None:
        self.checkpoint = architectures.write("t5", folder / "checkpoint")
        self.shelf = Shelf(folder / "stages")
        self.made = self.export()
        self.encoder, self.decoder = (open_session(path, "exact") for path in self.made.models)

    def export(self) -> Artifact:
        source = sources.find(str(self.checkpoint))
        return pipeline.export(source, recipe.build({"model": str(self.checkpoint)}), self.shelf)

    @cached_property
    def torch_model(self) -> transformers.PreTrainedModel:
        return transformers.AutoModelForSeq2SeqLM.from_pretrained(self.checkpoint).eval()

    def greedy(self, ids: np.ndarray, mask: np.ndarray, new_tokens: int) -> np.ndarray:
        """The encoder once, then one token a call on what the call before returned; the first past is empty."""
        names = [one.name for one in self.encoder.get_outputs()]
        states = dict(zip(names, self.encoder.run(names, {"input_ids": ids, "attention_mask": mask}), strict=True))
        wanted = [one.name for one in self.decoder.get_inputs()]
        cross = {name: states[name.replace("past_key_values", "present")] for name in wanted if ".encoder." in name}
        past = {name: np.zeros((len(ids), 4, 0, 8), np.float32) for name in wanted if ".decoder." in name}
        chosen = np.full((len(ids), 1), START)
        names = [one.name for one in self.decoder.get_outputs()]
        for _ in range(new_tokens):
            feeds = {"input_ids": chosen[:, -1:], "encoder_attention_mask": mask, **cross, **past}
            outputs = dict(zip(names, self.decoder.run(names, feeds), strict=True))
            past = {name: outputs[name.replace("past_key_values", "present")] for name in past}
            chosen = np.concatenate([chosen, outputs["logits"][:, -1:].argmax(-1)], 1)
        return chosen


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(tmp_path_factory.mktemp("t5"))


@pytest.mark.parametrize("lengths", [(5,), (9, 4, 1)])
def test_what_is_generated_is_what_transformers_generates(pair: Pair, lengths: tuple[int, ...]) -> None:
    """Texts of several lengths in one batch, the short ones padded; each generates what it generates alone."""
    ids = np.random.default_rng(0).integers(3, architectures.VOCABULARY, (len(lengths), max(lengths)))
    mask = (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(np.int64)
    found = pair.greedy(ids, mask, 12)
    for row, length in enumerate(lengths):
        alone = torch.from_numpy(ids[row : row + 1, :length])
        expected = pair.torch_model.generate(alone, do_sample=False, max_new_tokens=12, eos_token_id=None)
        assert found[row].tolist() == expected[0].tolist()


def test_the_two_graphs_have_the_names_of_optimum(pair: Pair) -> None:
    def interface(values: object) -> dict[str, list[int | str]]:
        return {str(v.name): [size if isinstance(size, int) else str(size) for size in v.shape] for v in values}

    encoder, decoder = (load_model(path).graph for path in pair.made.models)
    text, layers, parts = ["batch_size", "encoder_sequence_length"], (0, 1), ("key", "value")
    cross = ["batch_size", 4, "encoder_sequence_length", 8]
    assert [path.name for path in pair.made.models] == ["encoder_model.onnx", "decoder_model.onnx"]
    assert interface(encoder.inputs) == {"input_ids": text, "attention_mask": text}
    assert interface(encoder.outputs) == {
        "last_hidden_state": [*text, 32],
        **{f"present.{layer}.encoder.{part}": cross for layer in layers for part in parts},
    }
    past, total = "past_sequence_length", "past_sequence_length + sequence_length"
    assert interface(decoder.inputs) == {
        "input_ids": ["batch_size", "sequence_length"],
        "encoder_attention_mask": text,
        **{f"past_key_values.{layer}.decoder.{part}": ["batch_size", 4, past, 8] for layer in layers for part in parts},
        **{f"past_key_values.{layer}.encoder.{part}": cross for layer in layers for part in parts},
    }
    present = interface(decoder.outputs)
    assert present["logits"] == ["batch_size", "sequence_length", architectures.VOCABULARY]
    assert {tuple(sorted(present["present.1.decoder.key"][2].split(" + ")))} == {tuple(sorted(total.split(" + ")))}


def test_no_weight_but_the_shared_embeddings_is_in_both(pair: Pair) -> None:
    held = []
    for path in pair.made.models:
        onnx.checker.check_model(str(path), full_check=True)
        weights = [value.const_value for value in load_model(path).graph.initializers.values()]
        held.append({one.tobytes() for one in weights if one.nbytes > 4096})
    assert len(held[0] & held[1]) == 1


def test_every_graph_is_optimized(pair: Pair) -> None:
    optimized = pipeline.optimize(pair.made, recipe.build({"model": "t5"}), pair.shelf)
    assert [path.name for path in optimized.models] == [path.name for path in pair.made.models]
    assert optimized.facts["nodes"] < pair.made.facts["nodes"]
    _, exporter = exporters.prepare(sources.find(str(pair.checkpoint)), recipe.Export())
    assert max(one.difference for one in exporter.prove(optimized.directory)) < 1e-4


def test_what_works_on_one_graph_says_so_in_one_line(pair: Pair, compress: Callable[..., Outcome]) -> None:
    line = "holds several graphs and this works on one; name encoder_model.onnx or decoder_model.onnx in it"
    outcome = compress("diff", pair.made.directory, pair.made.directory)
    assert (outcome.code, line in outcome.err) == (2, True)
    with pytest.raises(RequestError, match=line):
        _ = pair.made.model
    named = pair.made.directory / "encoder_model.onnx"
    outcome = compress("validate", named, "--against", pair.made.directory)
    assert (outcome.code, "do not hold the same graphs" in outcome.err) == (2, True)


def test_a_run_quantizes_and_measures_every_graph(pair: Pair, tmp_path: Path) -> None:
    """8 bits in both graphs, each within 5 % of its outputs' norm; the artifact still generates."""
    limits = {"agreement": {"min_cosine": 0.99}, "size": {"max_ratio": 0.6}}
    wanted = {"model": str(pair.checkpoint), "target": "cpu", "quantize": {"rtn": {"bits": 8}}, "validate": limits}
    made, report = pipeline.run(recipe.build(wanted), tmp_path / "t5")
    names = {one.name for one in report.measurements}
    assert report.verdict(strict=True) == "passed"
    assert {f"{graph}: size" for graph in ("encoder_model", "decoder_model")} <= names
    assert [one["graph"] for one in report.placement] == [path.name for path in made.models]
    for rows in (report.layers, report.passes):
        assert {row["graph"] for row in rows} == {"encoder_model", "decoder_model"}
    for path in made.models:
        assert any(node.op_type == "MatMulNBits" for node in load_model(path).graph)


@pytest.mark.parametrize("command", ["inspect", "check", "bench"])
def test_every_graph_is_looked_at(pair: Pair, compress: Callable[..., Outcome], command: str) -> None:
    few = ["--batch", "1", "--length", "4", "--repeats", "2"] if command == "bench" else []
    outcome = compress(command, pair.made.directory, *few)
    assert outcome.code == 0, outcome.err
    assert "encoder_model" in outcome.out
    assert "decoder_model" in outcome.out


def test_a_decoder_that_departs_is_not_delivered(pair: Pair, tmp_path: Path) -> None:
    """A weight of the decoder's second layer is spoiled; a module of the decoder is named."""
    for path in pair.made.models:
        model = load_model(path)
        weight = model.graph.initializers.get("decoder.block.1.layer.2.DenseReluDense.wo.weight")
        if weight is not None:
            weight.const_value = ir.tensor(1.1 * weight.const_value.numpy(), name=weight.name)
        save_model(model, tmp_path / path.name)
    _, exporter = exporters.prepare(sources.find(str(pair.checkpoint)), recipe.Export())
    with pytest.raises(LimitMissedError, match=r"first module whose output departs is decoder\."):
        exporter.prove(tmp_path)
