"""Equal keys, equal bytes: what a stage looks at is in its key."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from compressor import sources
from compressor.graph.session import save_model
from compressor.recipe import recipe
from compressor.recipe.recipe import Recipe
from compressor.stages import keys
from tests import graphs


def wish(**sections: Any) -> Recipe:
    return recipe.build({"model": "x", "calibration": {"source": "builtin"}, **sections})


def test_a_budget_is_spent_by_what_the_package_stores() -> None:
    def found(budget: dict[str, float] | None, target: str) -> str:
        return keys.quantize("optimized", wish(target=target, quantize={"rtn": {}, "budget": budget}))[0]

    assert found({"bits": 4.5}, "cpu") != found({"bits": 4.5}, "generic")
    assert found(None, "cpu") == found(None, "generic")


def test_a_package_depends_on_the_bytes_of_its_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(sources.find("builtin:tiny-lm").folder, folder)
    asked = wish(target="generic", package={"format": "gptq", "checkpoint": str(folder)})
    before, _ = keys.package("optimized", "quantized", asked)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert keys.package("optimized", "quantized", asked)[0] != before


@pytest.mark.parametrize(
    ("read", "method", "depends"),
    [("past_key_values.0.encoder.key", "gptq", True), ("past_key_values.0.encoder.key", "rtn", False),
     ("past_key_values.0.decoder.key", "gptq", False)],
)  # fmt: skip
@pytest.mark.parametrize("file", ["encoder_model.onnx", "encoder_model.onnx.data"])
def test_a_bare_decoder_depends_on_the_encoder_that_it_is_calibrated_with(
    tmp_path: Path, file: str, read: str, method: str, depends: bool
) -> None:
    def key() -> str:
        asked, given = wish(quantize={method: {}}), sources.open_input(tmp_path / "decoder_model.onnx")
        return keys.quantize(given.key, asked, keys.encoder_beside(given, asked))[0]

    model = graphs.build("(float[N,65] x) => (float[N,65] y) { y = Add(x, w) }", opset=21, w=graphs.normal(1, 65))
    save_model(model, tmp_path / "encoder_model.onnx")
    model.graph.inputs[0].name = read
    save_model(model, tmp_path / "decoder_model.onnx")
    before = key()
    more = b" " if file.endswith(".data") else b"\x12\x01a"  # protobuf: a producer_name
    (tmp_path / file).write_bytes((tmp_path / file).read_bytes() + more)
    assert (key() != before) is depends
