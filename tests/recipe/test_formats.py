"""What a format cannot carry and a target cannot run is said before a model is opened, with its place."""

from __future__ import annotations

import pytest

from compressor import catalog
from compressor.errors import RecipeError
from compressor.recipe import formats, recipe


def findings(text: str) -> str:
    with pytest.raises(RecipeError) as refused:
        recipe.parse(text, "r.yaml")
    return str(refused.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "model: x\ntarget: tensorrt\nquantize:\n  gptq: {group_size: 32}",
            "r.yaml:4: quantize.gptq.group_size: tensorrt runs 4 bits in groups of 64, 128, not 32",
        ),
        (
            "model: x\ntarget: tensorrt\nquantize:\n  rtn: {bits: 8, group_size: -1, scheme: zero_point}",
            "r.yaml:4: quantize.rtn.scheme: tensorrt runs absmax, not zero_point",
        ),
        (
            "model: x\ntarget: tensorrt\npackage: {format: matmulnbits}",
            "r.yaml:3: package.format: matmulnbits does not run on target tensorrt; it runs on generic, cpu, cuda",
        ),
    ],
)
def test_what_cannot_be_had_together_is_said_in_one_line(text: str, said: str) -> None:
    assert findings(text) == said


@pytest.mark.parametrize("target", catalog.TARGETS)
def test_a_target_names_its_format_and_runs_it(target: str) -> None:
    made = recipe.build({"model": "x", "target": target})
    assert made.format == catalog.FORMAT_OF[target]
    assert target in catalog.FORMATS[made.format].targets


def test_every_format_of_the_catalog_can_be_named() -> None:
    for name, entry in catalog.FORMATS.items():
        assert recipe.build({"model": "x", "target": entry.targets[0], "package": {"format": name}}).format == name


@pytest.mark.parametrize(
    ("form", "bits", "said"),
    [
        ("gptq", 3, "quantize.rtn.bits: a gptq package holds 8, 4, 2 bits, not 3"),
        ("compressed_tensors", 2, "quantize.rtn.bits: a compressed_tensors package holds 8, 4 bits, not 2"),
    ],
)
def test_bits_that_a_format_has_no_place_for(form: str, bits: int, said: str) -> None:
    assert said in findings(f"model: x\nquantize: {{rtn: {{bits: {bits}}}}}\npackage: {{format: {form}}}")


@pytest.mark.parametrize(
    ("target", "form", "shape", "bits", "group_size", "said"),
    [
        ("cpu", "gptq", (172, 64), 4, 32, "172 inputs are no multiple of the group of 32"),
        ("cpu", "gptq", (172, 64), 4, -1, "172 inputs are no multiple of 8, which gptq packs into a word"),
        ("cpu", "gptq", (64, 99), 4, 32, "99 outputs are no multiple of 8, which gptq packs into a word"),
        ("cpu", "compressed_tensors", (64, 99), 4, 32, ""),
        ("cpu", "compressed_tensors", (96, 99), 8, 64, "96 inputs are no multiple of the group of 64"),
        ("cpu", "matmulnbits", (172, 99), 4, 32, ""),
        ("generic", "qdq", (172, 99), 4, 32, ""),
        ("tensorrt", "qdq", (172, 64), 4, 64, "172 inputs are no multiple of the group of 64"),
        ("tensorrt", "qdq", (128, 99), 4, 64, "99 outputs are odd, and tensorrt reads int4 in pairs"),
        ("tensorrt", "qdq", (172, 99), 8, -1, ""),
    ],
)
def test_a_weight_that_has_no_place(
    target: str, form: str, shape: tuple[int, int], bits: int, group_size: int, said: str
) -> None:
    assert formats.misfit(target, form, shape, bits, group_size) == said
