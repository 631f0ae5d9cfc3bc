"""A pool in half precision, and one of 8-bit codes: fewer bytes, and both backends say the same from them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir
import pytest

from compressor import sources
from compressor.data import calibration
from compressor.data.vocabulary import Vocabulary
from compressor.errors import RequestError
from compressor.graph.paged_decoder import PAGED_MODEL
from compressor.graph.session import load_model
from compressor.package import paged
from compressor.recipe import recipe
from compressor.recipe.limits import Paged, Perplexity
from compressor.serve.backend import Limits
from compressor.serve.served import BACKENDS, Served
from compressor.stages import cache_calibration
from compressor.validate import paged as check
from compressor.validate.subject import Subject as Side
from tests.serve.conftest import Subject
from tests.serve.serving import mixed, serve

pytest.importorskip("onnxruntime_genai", reason="onnxruntime-genai is not installed; `pip install .[genai]`")

CRAMPED = Limits(num_blocks=10, block_size=16, max_batch=8, max_step_tokens=20, context=512, threads=1)


Tiny = Callable[[int | None], Subject]


def copy_with(cache: paged.Cache, tiny: Tiny, folder: Path) -> Served:
    shutil.copytree(tiny(4).folder, folder)
    paged.write(folder, sources.served_context(folder)[0], "cpu", cache)
    return Served.open(folder)


@pytest.fixture
def halved(tiny: Tiny, tmp_path: Path) -> Served:
    return copy_with("float16", tiny, tmp_path / "halved")


@pytest.fixture
def coded(tiny: Tiny, tmp_path: Path) -> Served:
    text = {"source": "builtin", "samples": 8, "length": 128}
    wish = recipe.build({"model": "x", "target": "cpu", "package": {"kv_cache": "int8"}, "calibration": text})
    read = cache_calibration.read(tiny(4).folder, wish)
    scales = cache_calibration.kept(tiny(4).folder, wish, read)
    assert scales is not None
    return copy_with(scales, tiny, tmp_path / "coded")


@pytest.mark.parametrize(("made", "share"), [("halved", 2), ("coded", 4)])
def test_it_takes_less_and_both_backends_say_the_same(
    made: str, share: int, tiny: Tiny, request: pytest.FixtureRequest
) -> None:
    served: Served = request.getfixturevalue(made)
    assert served.block_bytes * share == tiny(4).served.block_bytes
    requests = mixed(20, 512)
    engine, reference = ([one.tokens for one in serve(served.backend(name, CRAMPED)(), requests)] for name in BACKENDS)
    assert engine == reference


def test_codes_are_held_to_held_out_text(coded: Served) -> None:
    """A code is a 254th of what its channel reaches: less than a thousandth of a nat, and 0.0035 for 4-bit weights."""
    options = Perplexity(length=64, tokens=512)
    windows = calibration.heldout_windows(options, Vocabulary.of(coded.folder), sources.context(coded.folder))
    difference, kl = check.measure(Side(coded.folder / "model.onnx"), Paged(), windows)
    assert difference.passed
    assert kl.passed
    assert 0 < kl.value < 1e-3


def test_a_text_that_is_missing_is_an_error_and_no_fallback(tiny: Tiny) -> None:
    data = {"model": "x", "target": "cpu", "package": {"kv_cache": "int8"}, "calibration": {"source": "none.txt"}}
    with pytest.raises(RequestError, match=r"none\.txt"):
        cache_calibration.read(tiny(4).folder, recipe.build(data))


def test_a_spoiled_scale_is_found(coded: Served) -> None:
    """The values of one layer, all worth four times what they were."""
    model = load_model(coded.folder / PAGED_MODEL)
    scale = model.graph.initializers["paged/worth of past_key_values.0.value"]
    spoiled = 4 * scale.const_value.numpy()  # type: ignore[union-attr]
    scale.const_value = ir.tensor(spoiled, name=scale.name)
    ir.save(model, coded.folder / PAGED_MODEL)
    options = Perplexity(length=64, tokens=512)
    windows = calibration.heldout_windows(options, Vocabulary.of(coded.folder), sources.context(coded.folder))
    _, kl = check.measure(Side(coded.folder / "model.onnx"), Paged(), windows)
    assert not kl.passed


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
