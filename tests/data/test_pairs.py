"""Pairs of texts as calls of an encoder and of the decoder behind it: what transformers computes with labels."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
import transformers

from compressor import pipeline, sources
from compressor.artifact import Artifact
from compressor.data import samples
from compressor.data.samples import Samples
from compressor.disk import digest
from compressor.errors import RequestError
from compressor.graph.session import load_model, open_session, save_model
from compressor.recipe import recipe
from compressor.recipe.recipe import Calibration, Images
from compressor.shelf import Shelf
from tests import architectures, graphs
from tests.byte_tokenizer import BOS, write_tokenizer

ROWS = [{"pair": {"a": f"text {at} ...", "b": f"and {at * 7} is what is said of it"}} for at in range(9)]
NAMED = {"text_field": "pair.a", "target_field": "pair.b"}
OWN, THEIRS = "past_key_values.0.decoder.key", "past_key_values.0.encoder.key"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A random T5 that reads bytes."""
    folder = tmp_path_factory.mktemp("t5")
    checkpoint = architectures.write("t5", folder / "checkpoint", vocab_size=BOS + 1)
    write_tokenizer(checkpoint)
    return pipeline.export(
        sources.find(str(checkpoint)), recipe.build({"model": str(checkpoint)}), Shelf(folder / "stages")
    )


@pytest.fixture
def rows(tmp_path: Path) -> str:
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in ROWS))
    return str(tmp_path / "rows.jsonl")


def read(exported: Artifact, source: str, **options: object) -> list[Samples]:
    """The calls of the encoder and those of the decoder."""
    asked = Calibration(source=source, **{"samples": 4, "length": 16, **options})
    return [samples.calibrating(asked, load_model(path), exported.directory, Images()) for path in exported.models]


def test_the_decoder_is_called_as_transformers_calls_it_with_labels(exported: Artifact, rows: str) -> None:
    encoder, decoder = read(exported, rows, **NAMED)
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(exported.directory.parents[1] / "checkpoint").eval()
    session = open_session(exported.models[1], "exact")
    for text, written, row in zip(encoder.batches, decoder.batches, encoder.facts["rows"], strict=True):
        expected, target = (bytes(ROWS[row]["pair"][side], "utf-8")[:15] for side in "ab")
        assert len(text["input_ids"][0]) == 1 + len(expected)  # the one special token of this tokenizer
        assert text["attention_mask"].all()
        assert written["input_ids"].shape == (1, 1 + len(target))
        labels = torch.from_numpy(np.append(written["input_ids"][:, 1:], [[5]], 1))  # the last is not read
        with torch.no_grad():
            logits = model(input_ids=torch.from_numpy(text["input_ids"]), labels=labels).logits.numpy()
        (found,) = session.run(["logits"], written)
        np.testing.assert_allclose(found, logits, rtol=0, atol=1e-5)  # of 4: float32 sums in another order


def test_rows_are_chosen_by_seed_for_both_graphs(exported: Artifact, rows: str) -> None:
    facts = [one.facts for one in read(exported, rows, **NAMED)]
    assert facts[1].pop("encoder") == {
        path.name: digest(path) for path in exported.directory.glob("encoder_model.onnx*")
    }
    assert facts[0] == facts[1]
    assert (len(facts[0]["rows"]), facts[0]["targets"]) == (4, "pair.b")
    other = [one.facts for one in read(exported, rows, seed=1, **NAMED)]
    assert other[0]["rows"] != facts[0]["rows"]
    assert other[0]["rows_sha256"] != facts[0]["rows_sha256"]
    for text, hashed in zip(read(exported, rows, text_field="pair.b", target_field="pair.a"), facts, strict=True):
        assert text.facts["sha256"] != hashed["sha256"]


def test_running_text_is_read_and_written_both(exported: Artifact, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("abcdefghijklmnopqrstuvwxyz" * 4)
    encoder, decoder = read(exported, str(tmp_path / "text.txt"))
    assert {one.facts["targets"] for one in (encoder, decoder)} == {"the text"}
    for text, written in zip(encoder.batches, decoder.batches, strict=True):
        assert text["input_ids"].shape == written["input_ids"].shape == (1, 16)
        np.testing.assert_array_equal(written["input_ids"][:, 1:], text["input_ids"][:, :-1])
        assert written["input_ids"][0, 0] == 0  # what T5 starts with


@pytest.mark.parametrize(
    ("content", "options", "reason"),
    [
        (ROWS, {"text_field": "pair.a"}, "a row has no `target` string, which the decoder would write from its text"),
        (ROWS, {"text_field": "pair.c", "target_field": "pair.b"}, "objects with a `pair.c` string"),
        (ROWS, NAMED | {"samples": 10}, "holds 9 pairs of text and target; 10 are asked for"),
        ([{"text": "a", "target": " "}], {"samples": 1}, "holds 0 pairs of text and target; 1 are asked for"),
        ([{"text": "a", "target": "b"}, "c"], {"samples": 1}, "some rows are strings and some are objects"),
    ],
)
def test_what_makes_no_pairs_is_refused(
    exported: Artifact, tmp_path: Path, content: list[object], options: Mapping[str, object], reason: str
) -> None:
    (tmp_path / "rows.json").write_text(json.dumps(content))
    with pytest.raises(RequestError, match=reason):
        read(exported, str(tmp_path / "rows.json"), **options)


def test_a_decoder_needs_its_encoder_and_its_first_token(exported: Artifact, rows: str, tmp_path: Path) -> None:
    model, asked = load_model(exported.models[1]), Calibration(source=rows, samples=4, length=16, **NAMED)
    write_tokenizer(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(RequestError, match=r"no encoder_model\.onnx lies beside it"):
        samples.calibrating(asked, model, tmp_path, Images())
    (tmp_path / "encoder_model.onnx").touch()
    with pytest.raises(RequestError, match="its configuration names no decoder_start_token_id"):
        samples.calibrating(asked, model, tmp_path, Images())


def unread(decoder: ir.Model, encoder: ir.Model) -> None:
    decoder.graph.inputs.append(ir.val("use_cache_branch", ir.DataType.BOOL, [1]))


def unsized(decoder: ir.Model, encoder: ir.Model) -> None:
    next(one for one in decoder.graph.inputs if one.name == OWN).shape = ir.Shape(["batch", "heads", "past", "size"])


def unshaped(decoder: ir.Model, encoder: ir.Model) -> None:
    next(one for one in decoder.graph.inputs if one.name == OWN).shape = None


def hidden_states_alone(decoder: ir.Model, encoder: ir.Model) -> None:
    del encoder.graph.outputs[1:]


@pytest.mark.parametrize(
    ("alter", "named"),
    [(unread, "use_cache_branch"), (unsized, OWN), (unshaped, OWN), (hidden_states_alone, THEIRS)],
)
def test_a_decoder_that_reads_what_neither_text_nor_its_encoder_gives_is_refused(
    exported: Artifact, rows: str, tmp_path: Path, alter: Callable[[ir.Model, ir.Model], None], named: str
) -> None:
    """As others export them."""
    encoder, decoder = (load_model(path) for path in exported.models)
    alter(decoder, encoder)
    save_model(encoder, tmp_path / "encoder_model.onnx")
    sources.carry(exported.directory, tmp_path)
    with pytest.raises(RequestError, match=f"the decoder reads {named}.*, which neither .* gives; calibrate with arr"):
        samples.calibrating(Calibration(source=rows, samples=4, length=16, **NAMED), decoder, tmp_path, Images())


def test_a_decoder_without_a_past_is_no_encoder(exported: Artifact) -> None:
    text = "(int64[N,T] input_ids, float[N,S,2] encoder_hidden_states) => (float[N,S,2] y, int64[N,T] z) "
    model = graphs.build(text + "{ y = Neg(encoder_hidden_states) z = Neg(input_ids) }", opset=21)
    model.graph.outputs[0].name = "present.0.encoder.key"
    asked = Calibration(samples=4, length=16)
    with pytest.raises(RequestError, match="reads encoder_hidden_states, which text does not give"):
        samples.calibrating(asked, model, exported.directory, Images())


def test_gptq_solves_both_graphs_on_pairs(exported: Artifact, rows: str, tmp_path: Path) -> None:
    options = {"model": "t5", "calibration": {"source": rows, "samples": 8, "length": 16, **NAMED}}
    options |= {"quantize": {"gptq": {"group_size": 16}}}
    made = pipeline.quantize(exported, recipe.build(options), Shelf(tmp_path))
    layers = made.facts["layers"]
    assert {row["graph"] for row in layers} == {"encoder_model", "decoder_model"}
    assert all(row["error"] < row["rounding_error"] and not row["fallback"] for row in layers)


def test_a_bare_decoder_is_solved_anew_where_its_encoder_is_another(
    exported: Artifact, rows: str, tmp_path: Path
) -> None:
    folder = tmp_path / "bare"
    shutil.copytree(exported.directory, folder, ignore=shutil.ignore_patterns("manifest.json"))
    options = {"model": "t5", "calibration": {"source": rows, "samples": 8, "length": 16, **NAMED}}
    asked = recipe.build(options | {"quantize": {"gptq": {"group_size": 16}}})

    def made() -> Artifact:
        return pipeline.quantize(sources.open_input(folder / "decoder_model.onnx"), asked, Shelf(tmp_path / "stages"))

    first, again = made(), made()
    encoder = folder / "encoder_model.onnx.data"
    encoder.write_bytes(encoder.read_bytes() + b" ")
    anew = made()
    assert [one.reused for one in (first, again, anew)] == [False, True, False]
    assert anew.facts["calibration"]["encoder"][encoder.name] == digest(encoder)
